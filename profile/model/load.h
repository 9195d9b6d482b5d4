/* What loading a checkpoint takes in any family: the config read strictly, tensors found by name and shape,
 * checked, hashed and brought to the backend, and every one of them accounted for. A family states names and
 * shapes; profile/model/dit_load.c is one.
 *
 * The order of calls: begin; sizes from tensors and config; open_weights with how many floats are copied;
 * load_tensor for each tensor, in the order of the digest; close_weights; end, which frees the loader and, where
 * loading succeeded, leaves the digest in the model. Every fallible function returns a status and says in the
 * loader's error which file, tensor or key is at fault.
 */
#ifndef OUSAC_LOAD_H
#define OUSAC_LOAD_H

#include "formats/json.h"
#include "formats/safetensors.h"
#include "formats/sha256.h"
#include "formats/status.h"
#include "profile/model/model.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ousac_loader {
    ousac_model *model;
    const ousac_safetensors *file;
    const char *what; /* of a whole checkpoint, in messages: "a DiT" */
    cJSON *config;    /* an object, or NULL where there is none */
    const char *config_name;
    const ousac_model_options *options; /* or NULL */
    int in_place;                       /* 1: the mapped tensors stand for memory of the backend */
    float *host;                        /* staging for a part of a tensor */
    float *weights, *sealed;          /* backend memory, the model's to release: ousac_loader_open_weights */
    size_t used, total;               /* floats of `weights` */
    size_t sealed_used, sealed_total; /* of `sealed` */
    unsigned char *taken;             /* per tensor of the file: 1 once it is used */
    ousac_sha256 hash;
    ousac_error *error;
} ousac_loader;

/* `config` is the text of config.json or NULL. FORMAT where it is not one JSON object, or holds a key twice. */
ousac_status ousac_loader_begin(ousac_loader *loader, ousac_model *model, const char *what,
                                const ousac_safetensors *file, const char *config, const char *config_name,
                                const ousac_model_options *options, ousac_error *error);
/* Frees what the loader made; weights stay, with the model. */
void ousac_loader_end(ousac_loader *loader);

/* --- the config --- */

/* Each gives 1 and the value where the key is there, 0 where it is absent or null, -1 with the error set (FORMAT)
 * where it is of another kind: a whole number from 0 to 2^31 - 1, a finite number, a text, true or false. */
int ousac_loader_size(const ousac_loader *loader, const char *key, size_t *value);
int ousac_loader_real(const ousac_loader *loader, const char *key, double *value);
int ousac_loader_text(const ousac_loader *loader, const char *key, const char **value);
int ousac_loader_flag(const ousac_loader *loader, const char *key, int *value);
/* The same of a size with two names, of which a config may have both where they agree. */
int ousac_loader_size_of(const ousac_loader *loader, const char *key, const char *other, size_t *value);
/* 1 where the config has the key, whatever its value. */
int ousac_loader_has(const ousac_loader *loader, const char *key);
/* Where the config states what the tensors already show, both must agree. */
ousac_status ousac_loader_agrees(const ousac_loader *loader, const char *key, size_t value);
/* UNSUPPORTED where a text is there and another one; where a flag is; where a key is there at all (but null). */
ousac_status ousac_loader_text_is(const ousac_loader *loader, const char *key, const char *wanted);
ousac_status ousac_loader_flag_is(const ousac_loader *loader, const char *key, int wanted);
ousac_status ousac_loader_lacks(const ousac_loader *loader, const char *key);

/* Fills the model's noise and guided_channels, whose `channels` are set: from "betas" (profile/model/noise.h), or
 * diffusers' beta_schedule, beta_start, beta_end and num_train_timesteps, or `levels` where there is neither;
 * "prediction" or "prediction_type", else `prediction`; "guided_channels", else all. What else diffusers' schedulers
 * know to change the levels is refused by name. */
ousac_status ousac_loader_noise(const ousac_loader *loader, const char *levels, ousac_prediction prediction);

/* Fills the model's data_range from "data_range", [LOW, HIGH]; not known where it is absent. */
ousac_status ousac_loader_range(const ousac_loader *loader);

/* --- tensors --- */

const ousac_safetensors_tensor *ousac_loader_find(const ousac_loader *loader, const char *name);
/* FORMAT: the tensor is missing. */
ousac_status ousac_loader_missing(const ousac_loader *loader, const char *name);
/* Finds a tensor of exactly the given shape and marks it as used. */
ousac_status ousac_loader_take(ousac_loader *loader, const char *name, size_t dims, const size_t *shape,
                               const ousac_safetensors_tensor **tensor);
/* Marks a tensor as used. */
void ousac_loader_mark(ousac_loader *loader, const ousac_safetensors_tensor *tensor);

/* Begins a tensor in the digest. */
void ousac_loader_hash_shape(ousac_loader *loader, const char *canonical, size_t dims, const size_t *shape);
/* Makes room for `copied` floats in all, `sealed` of them in the form of ousac_backend.alloc_weights where the
 * backend has that, and says in the model what running takes. `in_place`: how many are copied where the mapped
 * file may stand for the rest. */
ousac_status ousac_loader_open_weights(ousac_loader *loader, size_t copied, size_t in_place, size_t sealed);
/* The next `count` floats of the room; NULL where the model is not for running. */
ousac_status ousac_loader_reserve(ousac_loader *loader, const char *canonical, int sealed, size_t count,
                                  float **slot);
/* Checks and hashes elements [first, first + count) of a tensor in parts, and uploads it to `slot`, NULL for nowhere. No part of the file stays in
 * memory that is not to stand for memory of the backend. */
ousac_status ousac_loader_stream_part(ousac_loader *loader, const ousac_safetensors_tensor *tensor,
                                      uint64_t first, uint64_t count, float *slot);
/* All of it for one tensor: `name` in the file, `canonical` in the digest. `sealed`: 1 for the weight of a linear
 * over tokens. */
ousac_status ousac_loader_tensor(ousac_loader *loader, const char *name, const char *canonical, int sealed,
                                 const float **target, size_t dims, const size_t *shape);
/* The same of `count` tensors of one shape that are to lie one after another, as one of count * shape[0] rows, in
 * memory (counted among what is copied even in place) and in the digest. */
ousac_status ousac_loader_tensors(ousac_loader *loader, size_t count, const char *const *names,
                                  const char *canonical, int sealed, const float **target, size_t dims,
                                  const size_t *shape);
/* UNSUPPORTED where a tensor of the file has not been used; then lets the backend prepare the weights. */
ousac_status ousac_loader_close_weights(ousac_loader *loader);

/* Ends the digest with the model's constants (set by the family). */
void ousac_loader_digest(ousac_loader *loader);

#ifdef __cplusplus
}
#endif
#endif

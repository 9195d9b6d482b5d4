/* Synthetic checkpoints and profiles of published shapes: for measuring at full size what needs no
 * trained weights. Nothing is learned, so samples of such a model mean nothing; but shapes, names and the
 * decay of every spectrum (profile/synth/synth_law.h) are those of real ones, modulation and gates are alive, and
 * activations stay of order 1. Everything is a function of shape and seed alone, whatever the threads, and is
 * made and written one tensor at a time. A model of fewer blocks is a beginning of the deeper one.
 */
#ifndef OUSAC_SYNTH_H
#define OUSAC_SYNTH_H

#include "formats/dtype.h"
#include "formats/schedule.h"
#include "formats/sha256.h"
#include "formats/status.h"
#include "formats/stop.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A family's part in it: profile/synth/synth_family.h, which says how another one is added. */
typedef struct ousac_synth_family ousac_synth_family;

typedef struct ousac_synth_shape {
    const ousac_synth_family *family;
    const char *preset; /* its name, static */
    size_t depth, width, hidden, heads;
    size_t patch, channels, input_size; /* tokens = (input_size / patch)^2 */
    size_t classes;                     /* the label table has one row more; 0: none */
    int learn_sigma;
    size_t caption_tokens, caption_channels; /* of a model that is told captions, else 0 */
    int micro;                               /* 1: it is told sizes too */
    size_t pooled_channels;                  /* of a model that is told a pooled text, else 0 */
    int guided;                              /* 1: it is told a guidance scale */
} ousac_synth_shape;

/* The shapes of the public models: DiT (arXiv 2212.09748, table 1, patch 2, latents of 256 x 256 images), "FLUX-shape",
 * which is the DiT family with the width, blocks, heads and image tokens of a FLUX.1 at 1024 x 1024, PixArt-alpha at
 * 256, 512 and 1024 pixels, and FLUX.1 dev and schnell at 1024 pixels. An unknown name is USAGE and lists the known
 * ones. */
ousac_status ousac_synth_preset(ousac_synth_shape *shape, const char *name, ousac_error *error);

/* Sets the number of tokens, which must be a square: USAGE. */
ousac_status ousac_synth_set_tokens(ousac_synth_shape *shape, size_t tokens, ousac_error *error);
/* Sets height and width of the latents: USAGE where the patch does not divide them. */
ousac_status ousac_synth_set_input_size(ousac_synth_shape *shape, size_t input_size, ousac_error *error);
size_t ousac_synth_tokens(const ousac_synth_shape *shape);
uint64_t ousac_synth_parameters(const ousac_synth_shape *shape);

typedef struct ousac_synth_options {
    ousac_synth_shape shape;
    ousac_dtype dtype; /* f32 or bf16, of the file and so of the weights' values */
    uint64_t seed;
    size_t threads;
    /* Tensors made so far, of all that the call makes. May be NULL. */
    void (*progress)(void *self, uint64_t done, uint64_t total);
    void *progress_self;
    const ousac_stop *stop; /* asked: stop at the next tensor with INTERRUPTED; may be NULL */
} ousac_synth_options;

/* 1 where the model runs on an inputs file, which ousac_synth_save_inputs makes. */
int ousac_synth_needs_inputs(const ousac_synth_shape *shape);
/* Writes one of `rows` random captions, 1 to all of their tokens there, of the unconditional branch one. USAGE where the
 * model takes none. On any failure, nothing appears under `path`. */
ousac_status ousac_synth_save_inputs(const ousac_synth_options *options, size_t rows, const char *path,
                                     ousac_error *error);

/* The text of the model's config.json; ousac_free. */
ousac_status ousac_synth_config(const ousac_synth_options *options, char **text, ousac_error *error);
/* Writes the checkpoint. On any failure, nothing appears under `path`. */
ousac_status ousac_synth_save_model(const ousac_synth_options *options, const char *path, ousac_error *error);
/* The digest that ousac_model_load computes of the same model, without reading or writing it. */
ousac_status ousac_synth_model_digest(const ousac_synth_options *options, char digest[OUSAC_DIGEST_CHARS],
                                      ousac_error *error);
/* Writes a profile of `samples` samples of that model under the schedule: moments with the fitted decay in
 * random bases, energies by age as fitted, step weights as a pilot makes them, all consistent with one
 * another. USAGE for a schedule without a cached evaluation or with gates left to a plan. */
ousac_status ousac_synth_save_profile(const ousac_synth_options *options, const ousac_schedule *schedule,
                                      uint64_t samples, const char *path, ousac_error *error);

#ifdef __cplusplus
}
#endif
#endif

/* A model that ousac can run, and the small interface by which a model family plugs in.
 *
 * A family says which sites, groups and modules its model has (ousac_arch), loads the weights, draws the
 * inputs of a sample, and runs a forward in which every site's linear goes through an ousac_linears. It knows
 * nothing of caches, schedules or statistics.
 *
 * Weights live in memory of the model's backend and nowhere else: on a GPU they are resident there. The
 * engine multiplies by them where they are; whoever needs their values on the host (factors, probes, exports)
 * downloads a copy, site by site. The digest is taken while loading, from host memory, so that it does not
 * depend on the backend.
 */
#ifndef OUSAC_MODEL_H
#define OUSAC_MODEL_H

#include "calib/arch.h"
#include "calib/backend/backend.h"
#include "calib/backend/backend_plugin.h"
#include "formats/safetensors.h"
#include "formats/sha256.h"
#include "formats/status.h"
#include "profile/files/identity.h"
#include "profile/model/inputs.h"
#include "profile/model/noise.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ousac_model ousac_model;

/* A matrix of backend memory: rows = samples x tokens of its stream, leading dimension ld. */
typedef struct ousac_rows {
    float *data;
    size_t rows, ld;
} ousac_rows;

/* What a forward calls instead of multiplying. All matrices are backend memory. */
typedef struct ousac_linears {
    void *self;
    /* Before a module. *live = 0: its outputs are frozen and have been written to `out`, one matrix for each
     * (rows, width); the forward then skips the module and does not call module_end. */
    ousac_status (*module_begin)(void *self, size_t module, const ousac_rows *out, int *live,
                                 ousac_error *error);
    /* All sites of a group on their shared input: x (rows, n) -> y (rows, sum of m), sites side by side. Where the
     * arch says that the group's input is consumed, and x is the forward's own memory, its contents are undefined
     * afterwards. */
    ousac_status (*linear)(void *self, size_t group, size_t rows, const float *x, size_t ldx, float *y,
                           size_t ldy, ousac_error *error);
    /* Where the forward should write the input (output 0) or have the output (1) of a group, contiguous:
     * `own`, or memory that spares a copy. What lies there may be read until the forward ends and, once
     * linear has been called, must not be changed. NULL: `own`. */
    float *(*place)(void *self, size_t group, int output, float *own);
    /* After a live module, with its outputs before the gate of the residual sum. */
    ousac_status (*module_end)(void *self, size_t module, const ousac_rows *out, ousac_error *error);
} ousac_linears;

/* What a model is loaded for. But for its shapes, the whole checkpoint is read once, in parts, for its
 * digest. */
typedef enum ousac_model_use {
    OUSAC_MODEL_RUN = 0,     /* every weight in memory of the backend */
    OUSAC_MODEL_FACTORS = 1, /* shapes, and weights by site from the file when asked: it cannot be run */
    OUSAC_MODEL_SHAPES = 2   /* as FACTORS, but no value was looked at, and the digest is empty */
} ousac_model_use;

/* What a forward is asked for. */
typedef struct ousac_evaluation {
    int branch;   /* OUSAC_BRANCH_COND or OUSAC_BRANCH_UNCOND (formats/schedule.h) */
    size_t count; /* samples, those whose inputs the workspace holds */
    double timestep;
    double
        guidance; /* what the step states, else its scale, 1 without guidance: for models that are told it */
    int told;     /* 1: the step states it, which counts before what the inputs say */
} ousac_evaluation;

/* Values that config.json may lack; 0 or NULL: take them from the config. */
typedef struct ousac_model_options {
    const char *config_path; /* NULL: config.json beside the checkpoint */
    const char *inputs_path; /* inputs file (profile/model/inputs.h); NULL: inputs are drawn */
    size_t heads;
    ousac_model_use use;
    int copy_weights;   /* 1: never let the mapped file stand for memory of the backend */
    const char *device; /* as in ousac_device_open; used where no backend is given */
    int bf16;           /* likewise */
} ousac_model_options;

typedef struct ousac_family {
    const char *name;
    int one_at_a_time;      /* 1: evaluations of several threads wait for one another */
    int uncond_from_inputs; /* 1: the unconditional branch is that of an inputs file's negative_prompt_embeds, and
                               cannot be run without them */
    /* 1 where the tensor names are of this family. */
    int (*recognises)(const ousac_safetensors *file);
    /* Fills arch, sample shape, noise, guided channels, weights, digest, constants. `config` is the text of config.json or NULL;
     * `config_name` names it in messages. Frees what it made where it fails. */
    ousac_status (*load)(ousac_model *model, const ousac_safetensors *file, const char *config,
                         const char *config_name, const ousac_model_options *options, ousac_error *error);
    void (*unload)(ousac_model *model);
    /* Scratch of one thread for up to `batch` samples. */
    ousac_status (*workspace_create)(const ousac_model *model, size_t batch, void **workspace,
                                     ousac_error *error);
    void (*workspace_free)(const ousac_model *model, void *workspace);
    /* Bytes of such a scratch; also of a model that is not for running. */
    uint64_t (*workspace_bytes)(const ousac_model *model, size_t batch);
    /* Whether the inputs file is one that the model can take; NULL: none was given, to a model for running. */
    ousac_status (*check_inputs)(const ousac_model *model, const ousac_inputs *inputs, ousac_error *error);
    /* Puts the conditioning of samples [first, first + count) into the workspace, from ousac_model.inputs, or
     * drawn as a function of seed and sample index alone. The first evaluation of each branch after it computes
     * the constant groups. */
    ousac_status (*set_inputs)(const ousac_model *model, void *workspace, uint64_t seed, uint64_t first,
                               size_t count, ousac_error *error);
    /* Text of the conditioning of a sample, for people ("class 3, ring"), at most size bytes. */
    void (*describe_input)(const ousac_model *model, uint64_t seed, uint64_t sample, char *text, size_t size);
    /* x (count, channels, height, width) -> what the model predicts (ousac_model.noise), same shape; backend
     * memory. Runs within a sequence of the backend (calib/backend/backend.h), so nothing in it may wait for
     * a result. */
    ousac_status (*forward)(const ousac_model *model, void *workspace, const ousac_evaluation *evaluation,
                            const float *x, const ousac_linears *linears, float *out, ousac_error *error);
} ousac_family;

/* Where a checkpoint holds the weights of a site: m * n elements of a tensor, row-major. */
typedef struct ousac_model_source {
    const ousac_safetensors_tensor *tensor; /* NULL where they are not in the file as they are */
    uint64_t first;
} ousac_model_source;

struct ousac_model {
    const ousac_family *family;
    const ousac_backend *backend;
    ousac_device *device; /* owned, behind the backend; NULL where the backend was given */
    ousac_arch arch;
    char *path; /* as given */
    size_t channels, height, width;
    size_t guided_channels; /* guidance acts on the first of the channels; 1 to channels */
    int rescaled; /* 1: every row of `width` values of the guided prediction is given the length of the conditional one's */
    ousac_noise noise;    /* levels, and what is predicted */
    double data_range[2]; /* least and largest value of a sample; both 0: not known, as of latents */
    int has_uncond;       /* 1: the unconditional branch can be run, as far as is known */
    int takes_guidance;   /* 1: it is told a guidance, which a step of the schedule may state */
    char digest[OUSAC_DIGEST_CHARS]; /* of canonical names, shapes and float32 values of every tensor used,
                                        and of the constants */
    char constants[OUSAC_CONSTANTS_BYTES]; /* what else decides a forward: the family's, in its words */
    char process[OUSAC_PROCESS_BYTES];     /* what decides a trajectory beside it: made of the fields above */
    ousac_model_use use;
    uint64_t weight_bytes; /* that running takes for weights, copied or mapped */
    /* Of each site, in memory of the backend, which under the CPU may be the mapped checkpoint: W (m, n),
     * contiguous, sites of a group one after another, and bias (m), or NULL; the biases of a group likewise
     * one after another. All NULL where the model is not for running. */
    const float **weight;
    const float **bias;
    int sealed; /* 1: `weight` lies in ousac_backend.alloc_weights, and only the checkpoint has its values */
    ousac_inputs *inputs;       /* NULL: drawn */
    ousac_safetensors *file;    /* the checkpoint, mapped; NULL where the model was not loaded from one */
    ousac_model_source *source; /* (site_count), in that file; may be NULL where there are weights */
    void *state;                /* the family's */
};

/* Loads a checkpoint of any known family: a safetensors file, an index of shards, or a folder of diffusers, whose scheduler
 * then says the noise levels that the config does not (profile/model/folder.h). `backend` NULL: that of options->device is opened, NULL for the
 * CPU, and closed with the model, which must then be freed after all else that uses the backend. Errors: IO;
 * FORMAT naming the file and the tensor or the config key; UNSUPPORTED for an unknown layout or a device that
 * cannot be opened; NUMBER for a non-finite weight. The model is immutable afterwards and may be shared by
 * threads. The file must keep its contents for as long as the model lives (replacing it by another file is no
 * harm). Free with ousac_model_free. */
ousac_status ousac_model_load(ousac_model **model, const char *path, const ousac_model_options *options,
                              const ousac_backend *backend, ousac_error *error);
void ousac_model_free(ousac_model *model);

/* For a model that was not loaded to run: refuses what loading it for that would, inputs that its family needs and that
 * were not given. */
ousac_status ousac_model_check_inputs(const ousac_model *model, ousac_error *error);

/* Fills `process` from prediction, guided channels and noise levels. */
void ousac_model_describe_process(ousac_model *model);
/* Borrows the model's texts. */
ousac_identity ousac_model_identity(const ousac_model *model);

/* Rows [first, first + rows) of W (m, n) of a site, as host float32, from wherever they are; no more of the
 * checkpoint stays in memory. Errors: NUMBER, UNSUPPORTED as ousac_model_load. Thread-safe. */
ousac_status ousac_model_site_rows(const ousac_model *model, size_t site, size_t first, size_t rows, float *w,
                                   ousac_error *error);
/* All of them: w (m, n). */
ousac_status ousac_model_site_weight(const ousac_model *model, size_t site, float *w, ousac_error *error);

/* The model's data_range; NULL where it is not known. */
const double *ousac_model_range(const ousac_model *model);

/* channels * height * width */
size_t ousac_model_sample_size(const ousac_model *model);

/* Per site, OUSAC_PROBE_COUNT inner products of W with seeded random signs over sqrt(m n): recognises a model
 * that was loaded in another dtype. probes (site_count, OUSAC_PROBE_COUNT). */
enum { OUSAC_PROBE_COUNT = 4 };
/* Adds what row `row` of W contributes to the sums of a site: w (n), probe (OUSAC_PROBE_COUNT), before the division. */
void ousac_model_project_row(size_t site, size_t n, size_t row, const float *w, double *probe);
ousac_status ousac_model_probes(const ousac_model *model, double *probes, ousac_error *error);

/* x (count, channels, height, width), host memory: the initial noise of samples [first, first + count), from the
 * inputs file where that holds it. */
void ousac_model_draw_noise(const ousac_model *model, uint64_t seed, uint64_t first, size_t count, float *x);

#ifdef __cplusplus
}
#endif
#endif

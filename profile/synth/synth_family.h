/* How a family gives synthetic models, internal to profile/synth: a list of presets, a list of tensors, and what its
 * config, its digest and its profiles are made of. Another family adds one file with one of these (synth_pixart.c is
 * an example) and one line to the table in synth.c.
 */
#ifndef OUSAC_SYNTH_FAMILY_H
#define OUSAC_SYNTH_FAMILY_H

#include "calib/arch.h"
#include "profile/files/identity.h"
#include "profile/files/text.h"
#include "profile/synth/synth.h"
#include "profile/synth/synth_law.h"

#include <stddef.h>
#include <stdint.h>

enum {
    OUSAC_SYNTH_FREQUENCIES = 256, /* of the timestep's features, as in every public model */
    OUSAC_SYNTH_NAME_BYTES = 80,
    OUSAC_SYNTH_PARTS_MAX = 6
};
/* Root mean square of silu(z) and of gelu(z), z standard normal. */
#define OUSAC_SYNTH_SILU_RMS 0.5963
#define OUSAC_SYNTH_GELU_RMS 0.6521

typedef enum ousac_synth_recipe {
    OUSAC_SYNTH_NORMAL, /* independent normals about `mean` of `deviation`, times that of the row in `rows` */
    OUSAC_SYNTH_POSITIONS, /* 2-D sines and cosines */
    OUSAC_SYNTH_LAYERS,    /* layers of prescribed spectra, one below the other */
    OUSAC_SYNTH_MASK       /* 1 of the first so many columns of each row: `deviation` 0 one, else at random */
} ousac_synth_recipe;

typedef struct ousac_synth_tensor {
    char name[OUSAC_SYNTH_NAME_BYTES]; /* in the file */
    size_t dims;
    size_t shape[4];
    ousac_synth_recipe recipe;
    double deviation, mean;
    const double *rows; /* static, (shape[0]), or NULL */
    size_t part_count;  /* of LAYERS: W (shape[0] / part_count, shape[1]) each */
    struct {
        ousac_synth_kind kind;
        double gain;
    } parts[OUSAC_SYNTH_PARTS_MAX];
    uint64_t sample; /* of Philox */
    /* In the digest this tensor and every `stride`-th that follows, `joined` in all, are one of digest_name, of all
     * their rows. 1: itself, under its name; 0: it is within such a one. */
    size_t joined, stride;
    char digest_name[OUSAC_SYNTH_NAME_BYTES];
} ousac_synth_tensor;

typedef struct ousac_synth_list {
    const ousac_synth_shape *shape;
    ousac_synth_tensor *tensors; /* NULL: they are only counted */
    size_t count;
    uint64_t values; /* of all together */
    ousac_synth_tensor scratch;
} ousac_synth_list;

/* Each adds tensors; `sample` counts tensors of a model, from 0, and must be one of its own each. */
void ousac_synth_add_normal(ousac_synth_list *list, const char *name, uint64_t sample, double deviation,
                            size_t dims, const size_t *shape);
/* The same with a deviation for every row, static. */
void ousac_synth_add_rows(ousac_synth_list *list, const char *name, uint64_t sample, const double *rows,
                          size_t m, size_t n);
/* A vector of normals about `mean`. */
void ousac_synth_add_about(ousac_synth_list *list, const char *name, uint64_t sample, double mean,
                           double deviation, size_t count);
void ousac_synth_add_positions(ousac_synth_list *list, const char *name, uint64_t sample);
void ousac_synth_add_mask(ousac_synth_list *list, const char *name, uint64_t sample, int random, size_t rows,
                          size_t tokens);
/* STEM.weight of `count` parts (m, n) with a prescribed spectrum, and STEM.bias. With gains NULL the parts are of the
 * kinds `first` and on, as fitted; else all of kind `first` and of these gains on a silu of unit normals. Takes two
 * numbers. */
void ousac_synth_add_layers(ousac_synth_list *list, const char *stem, uint64_t sample, size_t count,
                            ousac_synth_kind first, const double *gains, size_t m, size_t n, double bias);
/* STEM.weight (m, n) of normals and STEM.bias. Takes two numbers. */
void ousac_synth_add_linear(ousac_synth_list *list, const char *stem, uint64_t sample, double deviation,
                            size_t m, size_t n, double bias);
/* Tensors first, first + stride... are one in the digest: see `joined`. */
void ousac_synth_join(ousac_synth_list *list, size_t first, size_t count, size_t stride,
                      const char *digest_name);

/* Which of the laws (synth_law.h) the groups, sites and modules of a block follow, in their order. */
typedef struct ousac_synth_map {
    size_t groups, sites, modules;
    const size_t *group, *site, *module;
} ousac_synth_map;

struct ousac_synth_family {
    const char *name;
    const ousac_synth_shape *presets; /* (preset_count), of this family */
    size_t preset_count;
    /* Adds all tensors, in the order of the model's digest. */
    void (*list)(ousac_synth_list *list);
    /* Adds those of an inputs file of so many rows; NULL where the model needs none. */
    void (*list_inputs)(ousac_synth_list *list, size_t rows);
    /* The text of config.json. */
    void (*config)(const ousac_synth_shape *shape, ousac_text *text);
    /* The constants that end the digest, in the loader's words. */
    void (*constants)(const ousac_synth_shape *shape, char text[OUSAC_CONSTANTS_BYTES]);
    ousac_status (*arch)(const ousac_synth_shape *shape, ousac_arch *arch, ousac_error *error);
    ousac_synth_map map;
    /* Of a family with two kinds of blocks: how many there are of the first kind, and the map of those after them; NULL
     * and unset of others. */
    size_t (*first_blocks)(const ousac_synth_shape *shape);
    ousac_synth_map later;
};

extern const ousac_synth_family ousac_synth_family_dit, ousac_synth_family_pixart, ousac_synth_family_flux;

#endif

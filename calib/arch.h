/* What calibration needs to know of a model: its linear sites, modules and shapes. No weights, no
 * activations.
 *
 * A *site* is one linear layer y = W x + b, W (m, n), that the cache corrects. Sites that read the same input
 * form a *group*, which shares one delta moment. A *module* is a sequence of stages whose output is cached as
 * a whole; a *stage* is a set of sites that run side by side (attention: {q, k, v} then {proj}; MLP: {fc1}
 * then {fc2}).
 *
 * A group lies on a *stream* of tokens (image, text, both joined), whose rows are its own: the groups of a stage
 * and the outputs of a module may lie on different ones (joint attention: two of each). Linears whose input does
 * not change over the steps, such as keys and values of a caption, are *constant groups*: computed once a sample
 * and branch, exactly, they have no site, no rank and no moment, and belong to no stage.
 */
#ifndef OUSAC_ARCH_H
#define OUSAC_ARCH_H

#include "formats/status.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { OUSAC_NAME_BYTES = 96, OUSAC_STREAMS_MAX = 8, OUSAC_OUTPUTS_MAX = 4 };

typedef struct ousac_stream {
    char name[OUSAC_NAME_BYTES]; /* "image" */
    size_t tokens;               /* N: rows of a sample */
} ousac_stream;

typedef enum ousac_side {
    OUSAC_SIDE_INPUT = 0, /* C = sum w dx dx^T, (n, n) */
    OUSAC_SIDE_OUTPUT = 1 /* D = sum w dy dy^T, (m, m) */
} ousac_side;

typedef struct ousac_site {
    char name[OUSAC_NAME_BYTES]; /* "blocks.3.attn.q" */
    size_t block, module, group; /* indices; module and group into the arrays of ousac_arch */
    size_t stage;                /* within its module, from 0 */
    size_t m, n;                 /* rows (output channels) and columns (input channels) of W */
} ousac_site;

typedef struct ousac_group {
    char name[OUSAC_NAME_BYTES]; /* "blocks.3.attn.qkv"; of a group of one: the site's name */
    size_t first_site, site_count;
    size_t stream; /* index into those of ousac_arch */
    ousac_side
        side;   /* of the moment: input where n <= m for its sites, else output; output only for one site */
    size_t dim; /* of the moment: n or m */
    int consumed; /* 1: the family's forward does not read the group's input once its linear has run, nor does anyone else
                     whose memory it is. A property of the code: no part of an architecture's text, digest or comparison */
} ousac_group;

typedef struct ousac_output {
    size_t stream, width; /* width: channels */
} ousac_output;

typedef struct ousac_module {
    char name[OUSAC_NAME_BYTES]; /* "blocks.3.attn" */
    size_t block;
    size_t stage_count;
    size_t first_site, site_count;
    size_t output_count;                    /* 1 to OUSAC_OUTPUTS_MAX */
    ousac_output output[OUSAC_OUTPUTS_MAX]; /* at most one a stream */
    uint64_t
        fixed_macs; /* per forward of one sample, when the module is computed, whatever the ranks: 2 N^2 d */
} ousac_module;

/* y = W x + b, W (m, n), computed once a sample and branch. */
typedef struct ousac_constant {
    char name[OUSAC_NAME_BYTES]; /* "blocks.3.cross.kv" */
    size_t stream, m, n;
} ousac_constant;

typedef struct ousac_arch {
    char family[OUSAC_NAME_BYTES];          /* "dit" */
    size_t stream_count;                    /* 1 to OUSAC_STREAMS_MAX */
    ousac_stream stream[OUSAC_STREAMS_MAX]; /* the first is that of the sample's own tokens */
    size_t width;                           /* d */
    size_t block_count;                     /* L */
    size_t site_count, group_count, module_count, constant_count;
    ousac_site *sites; /* in order of execution; sites of one group and of one module are contiguous */
    ousac_group *groups;
    ousac_module *modules;
    ousac_constant *constants; /* (constant_count) */
    uint64_t other_macs; /* per forward of one sample, computed at every gate: the blocks' modulation, 6 d^2
                            each */
} ousac_arch;

/* Allocates the four arrays, zeroed. Free with ousac_arch_free (which zeroes the struct). */
ousac_status ousac_arch_create(ousac_arch *arch, size_t sites, size_t groups, size_t modules,
                               size_t constants, ousac_error *error);
void ousac_arch_free(ousac_arch *arch);

/* INTERNAL where the indices, orders or sizes contradict the contracts above. */
ousac_status ousac_arch_check(const ousac_arch *arch, ousac_error *error);

/* N of a group, of a site's group, of a module's output, and the most of any stream. */
size_t ousac_arch_group_tokens(const ousac_arch *arch, size_t group);
size_t ousac_arch_site_tokens(const ousac_arch *arch, size_t site);
size_t ousac_arch_output_tokens(const ousac_arch *arch, size_t module, size_t output);
size_t ousac_arch_most_tokens(const ousac_arch *arch);
/* The group whose y the output may be: the last of the module on the output's stream, in its last stage;
 * SIZE_MAX where there is none. */
size_t ousac_arch_output_group(const ousac_arch *arch, size_t module, size_t output);

/* Whether two names are of one kind: the same but for the number of the block, the first part that is one
 * ("blocks.3.attn.q" and "blocks.7.attn.q"). */
int ousac_arch_same_kind(const char *a, const char *b);
/* kind[group]: the groups' kinds, numbered from 0 in order of appearance; region[group]: which of `regions`
 * equal parts of its kind, in order, a group is of, floor(i regions / count) for the i-th of `count`. Returns
 * how many kinds there are. */
size_t ousac_arch_kinds(const ousac_arch *arch, size_t regions, size_t *kind, size_t *region);

/* The DiT block structure (arXiv 2212.09748): per block the sites q, k, v (one group), proj, fc1, fc2 and the
 * modules attn and mlp, of which fc2 consumes its input; `hidden` is the MLP's inner width, 4 d in every public model. */
ousac_status ousac_arch_create_dit(ousac_arch *arch, size_t blocks, size_t tokens, size_t width,
                                   size_t hidden, ousac_error *error);

/* Index of a site by name; SIZE_MAX where there is none. */
size_t ousac_arch_find_site(const ousac_arch *arch, const char *name);

#ifdef __cplusplus
}
#endif
#endif

/* What calibration needs to know of a model: its linear sites, modules and shapes. No weights, no
 * activations.
 *
 * A *site* is one linear layer y = W x + b, W (m, n), that the cache corrects. Sites that read the same input
 * form a *group*, which shares one delta moment. A *module* is a sequence of stages whose output is cached as
 * a whole; a *stage* is a set of sites that run side by side (attention: {q, k, v} then {proj}; MLP: {fc1}
 * then {fc2}).
 */
#ifndef OUSAC_ARCH_H
#define OUSAC_ARCH_H

#include "formats/status.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { OUSAC_NAME_BYTES = 96 };

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
    ousac_side
        side;   /* of the moment: input where n <= m for its sites, else output; output only for one site */
    size_t dim; /* of the moment: n or m */
} ousac_group;

typedef struct ousac_module {
    char name[OUSAC_NAME_BYTES]; /* "blocks.3.attn" */
    size_t block;
    size_t stage_count;
    size_t first_site, site_count;
    size_t width; /* channels of the module's output */
    uint64_t
        fixed_macs; /* per forward of one sample, when the module is computed, whatever the ranks: 2 N^2 d */
} ousac_module;

typedef struct ousac_arch {
    char family[OUSAC_NAME_BYTES]; /* "dit" */
    size_t tokens;                 /* N */
    size_t width;                  /* d */
    size_t block_count;            /* L */
    size_t site_count, group_count, module_count;
    ousac_site *sites; /* in order of execution; sites of one group and of one module are contiguous */
    ousac_group *groups;
    ousac_module *modules;
    uint64_t other_macs; /* per forward of one sample, computed at every gate: the blocks' modulation, 6 d^2
                            each */
} ousac_arch;

/* Allocates the three arrays, zeroed. Free with ousac_arch_free (which zeroes the struct). */
ousac_status ousac_arch_create(ousac_arch *arch, size_t sites, size_t groups, size_t modules,
                               ousac_error *error);
void ousac_arch_free(ousac_arch *arch);

/* INTERNAL where the indices, orders or sizes contradict the contracts above. */
ousac_status ousac_arch_check(const ousac_arch *arch, ousac_error *error);

/* The DiT block structure (arXiv 2212.09748): per block the sites q, k, v (one group), proj, fc1, fc2 and the
 * modules attn and mlp; `hidden` is the MLP's inner width, 4 d in every public model. */
ousac_status ousac_arch_create_dit(ousac_arch *arch, size_t blocks, size_t tokens, size_t width,
                                   size_t hidden, ousac_error *error);

/* Index of a site by name; SIZE_MAX where there is none. */
size_t ousac_arch_find_site(const ousac_arch *arch, const char *name);

#ifdef __cplusplus
}
#endif
#endif

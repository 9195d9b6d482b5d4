#include "profile/model/flux.h"

#include <stdio.h>

enum { DOUBLE_SITES = OUSAC_FLUX_DOUBLE_SITES, SINGLE_SITES = OUSAC_FLUX_SINGLE_SITES };
enum { IMAGE = OUSAC_FLUX_IMAGE, TEXT = OUSAC_FLUX_TEXT, JOINT = OUSAC_FLUX_JOINT };

/* Sizes of a linear: the width, the MLP's inner width, both. */
typedef enum extent { WIDTH, HIDDEN, BOTH } extent;

typedef struct linear {
    const char *name;
    size_t module, group, stage, stream;
    extent m, n;
} linear;

static const linear DOUBLE[DOUBLE_SITES] = {
    {"attn.to_q", 0, 0, 0, IMAGE, WIDTH, WIDTH},
    {"attn.to_k", 0, 0, 0, IMAGE, WIDTH, WIDTH},
    {"attn.to_v", 0, 0, 0, IMAGE, WIDTH, WIDTH},
    {"attn.add_q_proj", 0, 1, 0, TEXT, WIDTH, WIDTH},
    {"attn.add_k_proj", 0, 1, 0, TEXT, WIDTH, WIDTH},
    {"attn.add_v_proj", 0, 1, 0, TEXT, WIDTH, WIDTH},
    {"attn.to_out.0", 0, 2, 1, IMAGE, WIDTH, WIDTH},
    {"attn.to_add_out", 0, 3, 1, TEXT, WIDTH, WIDTH},
    {"ff.net.0.proj", 1, 4, 0, IMAGE, HIDDEN, WIDTH},
    {"ff.net.2", 1, 5, 1, IMAGE, WIDTH, HIDDEN},
    {"ff_context.net.0.proj", 2, 6, 0, TEXT, HIDDEN, WIDTH},
    {"ff_context.net.2", 2, 7, 1, TEXT, WIDTH, HIDDEN},
};
static const linear SINGLE[SINGLE_SITES] = {
    {"attn.to_q", 0, 0, 0, JOINT, WIDTH, WIDTH}, {"attn.to_k", 0, 0, 0, JOINT, WIDTH, WIDTH},
    {"attn.to_v", 0, 0, 0, JOINT, WIDTH, WIDTH}, {"proj_mlp", 0, 0, 0, JOINT, HIDDEN, WIDTH},
    {"proj_out", 0, 1, 1, JOINT, WIDTH, BOTH},
};

/* One kind of block. */
typedef struct kind {
    const char *prefix;
    const linear *linears;
    size_t sites, groups, modules;
    const char *group[OUSAC_FLUX_DOUBLE_GROUPS]; /* names; NULL: the site's */
    const char *module[OUSAC_FLUX_DOUBLE_MODULES];
    int streams[OUSAC_FLUX_DOUBLE_MODULES][2]; /* of the modules' outputs, -1 for none */
} kind;

static const kind KINDS[2] = {
    {"transformer_blocks",
     DOUBLE,
     DOUBLE_SITES,
     OUSAC_FLUX_DOUBLE_GROUPS,
     OUSAC_FLUX_DOUBLE_MODULES,
     {"attn.to_qkv", "attn.add_qkv_proj"},
     {".attn", ".ff", ".ff_context"},
     {{IMAGE, TEXT}, {IMAGE, -1}, {TEXT, -1}}},
    {"single_transformer_blocks",
     SINGLE,
     SINGLE_SITES,
     OUSAC_FLUX_SINGLE_GROUPS,
     1,
     {"qkv_mlp"},
     {""},
     {{JOINT, -1}}},
};

static size_t size_of(const ousac_flux *flux, extent e) {
    return e == WIDTH ? flux->d : e == HIDDEN ? flux->hidden : flux->d + flux->hidden;
}

/* Where the next block's parts begin. */
typedef struct position {
    size_t block, site, group, module;
} position;

static void fill_block(ousac_arch *arch, const ousac_flux *flux, const kind *k, size_t index, position *at) {
    for (size_t i = 0; i < k->sites; i++) {
        const linear *l = &k->linears[i];
        ousac_site *site = &arch->sites[at->site + i];
        ousac_group *group = &arch->groups[at->group + l->group];
        ousac_module *module = &arch->modules[at->module + l->module];
        (void)snprintf(site->name, sizeof site->name, "%s.%zu.%s", k->prefix, index, l->name);
        site->block = at->block;
        site->module = at->module + l->module;
        site->group = at->group + l->group;
        site->stage = l->stage;
        site->m = size_of(flux, l->m);
        site->n = size_of(flux, l->n);
        if (group->site_count++ == 0) {
            group->first_site = at->site + i;
            (void)snprintf(group->name, sizeof group->name, "%s.%zu.%s", k->prefix, index,
                           k->group[l->group] ? k->group[l->group] : l->name);
        }
        group->stream = l->stream;
        group->consumed = l->n == HIDDEN;
        group->side = site->n <= site->m ? OUSAC_SIDE_INPUT : OUSAC_SIDE_OUTPUT;
        group->dim = site->n <= site->m ? site->n : site->m;
        if (module->site_count++ == 0)
            module->first_site = at->site + i;
        module->stage_count = l->stage + 1;
    }
    for (size_t i = 0; i < k->modules; i++) {
        ousac_module *module = &arch->modules[at->module + i];
        (void)snprintf(module->name, sizeof module->name, "%s.%zu%s", k->prefix, index, k->module[i]);
        module->block = at->block;
        module->fixed_macs = i == 0 ? 2 * (uint64_t)flux->joint * flux->joint * flux->d : 0;
        for (size_t o = 0; o < 2 && k->streams[i][o] >= 0; o++)
            module->output[module->output_count++] = (ousac_output){(size_t)k->streams[i][o], flux->d};
    }
    at->block++;
    at->site += k->sites;
    at->group += k->groups;
    at->module += k->modules;
}

ousac_status ousac_arch_create_flux(ousac_arch *arch, const ousac_flux *flux, ousac_error *error) {
    const size_t count[2] = {flux->doubles, flux->singles};
    const uint64_t square = (uint64_t)flux->d * flux->d;
    size_t sites = 0, groups = 0, modules = 0;
    position at = {0};
    for (size_t k = 0; k < 2; k++) {
        sites += count[k] * KINDS[k].sites;
        groups += count[k] * KINDS[k].groups;
        modules += count[k] * KINDS[k].modules;
    }
    ousac_status status = ousac_arch_create(arch, sites, groups, modules, 0, error);
    if (status)
        return status;
    (void)snprintf(arch->family, sizeof arch->family, "flux");
    arch->stream_count = 3;
    arch->stream[IMAGE] = (ousac_stream){"image", flux->image};
    arch->stream[TEXT] = (ousac_stream){"text", flux->text};
    arch->stream[JOINT] = (ousac_stream){"joint", flux->joint};
    arch->width = flux->d;
    arch->block_count = flux->doubles + flux->singles;
    arch->other_macs = (12 * (uint64_t)flux->doubles + 3 * (uint64_t)flux->singles) * square;
    for (size_t k = 0; k < 2; k++)
        for (size_t i = 0; i < count[k]; i++)
            fill_block(arch, flux, &KINDS[k], i, &at);
    return ousac_arch_check(arch, error);
}

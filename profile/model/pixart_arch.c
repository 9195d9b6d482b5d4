#include "profile/model/pixart.h"

#include <stdio.h>
#include <string.h>

enum {
    IMAGE = 0,
    CAPTION = 1,
    SITES = OUSAC_PIXART_SITES,
    GROUPS = OUSAC_PIXART_GROUPS,
    MODULES = OUSAC_PIXART_MODULES
};

/* One row per site of a block: where it belongs, and its shape in units of the width (0) and the hidden width (1). */
static const struct {
    const char *name;
    size_t group, module, stage;
    int rows_hidden, cols_hidden;
} SITE[SITES] = {
    {"attn.q", 0, 0, 0, 0, 0},    {"attn.k", 0, 0, 0, 0, 0},  {"attn.v", 0, 0, 0, 0, 0},
    {"attn.proj", 1, 0, 1, 0, 0}, {"cross.q", 2, 1, 0, 0, 0}, {"cross.proj", 3, 1, 1, 0, 0},
    {"mlp.fc1", 4, 2, 0, 1, 0},   {"mlp.fc2", 5, 2, 1, 0, 1},
};
static const char *const GROUP[GROUPS] = {"attn.qkv",   "attn.proj", "cross.q",
                                          "cross.proj", "mlp.fc1",   "mlp.fc2"};
static const char *const MODULE[MODULES] = {"attn", "cross", "mlp"};

static void name_in_block(char name[OUSAC_NAME_BYTES], size_t block, const char *part) {
    (void)snprintf(name, OUSAC_NAME_BYTES, "blocks.%zu.%s", block, part);
}

static void fill_block(ousac_arch *arch, size_t block, size_t hidden, const uint64_t fixed[MODULES]) {
    ousac_group *groups = arch->groups + block * GROUPS;
    ousac_module *modules = arch->modules + block * MODULES;
    for (size_t i = 0; i < GROUPS; i++)
        name_in_block(groups[i].name, block, GROUP[i]);
    groups[GROUPS - 1].consumed = 1; /* fc2 */
    for (size_t i = 0; i < MODULES; i++) {
        name_in_block(modules[i].name, block, MODULE[i]);
        modules[i].block = block;
        modules[i].output_count = 1;
        modules[i].output[0] = (ousac_output){IMAGE, arch->width};
        modules[i].fixed_macs = fixed[i];
    }
    for (size_t i = 0; i < SITES; i++) {
        ousac_site *site = arch->sites + block * SITES + i;
        ousac_group *group = groups + SITE[i].group;
        ousac_module *module = modules + SITE[i].module;
        name_in_block(site->name, block, SITE[i].name);
        site->block = block;
        site->group = block * GROUPS + SITE[i].group;
        site->module = block * MODULES + SITE[i].module;
        site->stage = SITE[i].stage;
        site->m = SITE[i].rows_hidden ? hidden : arch->width;
        site->n = SITE[i].cols_hidden ? hidden : arch->width;
        if (group->site_count++ == 0)
            group->first_site = block * SITES + i;
        group->stream = IMAGE;
        group->side = site->n <= site->m ? OUSAC_SIDE_INPUT : OUSAC_SIDE_OUTPUT;
        group->dim = group->side == OUSAC_SIDE_INPUT ? site->n : site->m;
        if (module->site_count++ == 0)
            module->first_site = block * SITES + i;
        module->stage_count = site->stage + 1;
    }
}

static void add_constant(ousac_arch *arch, size_t index, const char *name, size_t m, size_t n) {
    ousac_constant *constant = &arch->constants[index];
    *constant = (ousac_constant){.stream = CAPTION, .m = m, .n = n};
    (void)snprintf(constant->name, sizeof constant->name, "%s", name);
}

ousac_status ousac_arch_create_pixart(ousac_arch *arch, const ousac_pixart *sizes, ousac_error *error) {
    /* Far above every model, and far below where a product of three and a factor leaves 64 bits. */
    enum { SIZE_BOUND = 1 << 20 };
    const size_t all[] = {
        sizes->L, sizes->N, sizes->d, sizes->hidden, sizes->caption_tokens, sizes->caption_channels};
    const uint64_t N = sizes->N, d = sizes->d;
    char name[OUSAC_NAME_BYTES];
    memset(arch, 0, sizeof *arch);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (all[i] < 1 || all[i] > SIZE_BOUND)
            return OUSAC_FAIL(
                error, OUSAC_STATUS_USAGE,
                "PixArt of %zu blocks, %zu tokens, width %zu, hidden width %zu, captions of %zu x "
                "%zu: expected each from 1 to %d",
                all[0], all[1], all[2], all[3], all[4], all[5], SIZE_BOUND);
    ousac_status status =
        ousac_arch_create(arch, sizes->L * SITES, sizes->L * GROUPS, sizes->L * MODULES, 2 + sizes->L, error);
    if (status)
        return status;
    (void)snprintf(arch->family, sizeof arch->family, "pixart");
    arch->stream_count = 2;
    arch->stream[IMAGE] = (ousac_stream){"image", sizes->N};
    arch->stream[CAPTION] = (ousac_stream){"caption", sizes->caption_tokens};
    arch->width = sizes->d;
    arch->block_count = sizes->L;
    arch->other_macs = 6 * d * d; /* one modulation for all blocks */
    const uint64_t fixed[MODULES] = {2 * N * N * d, 2 * N * sizes->caption_tokens * d, 0};
    add_constant(arch, 0, "caption.fc1", sizes->d, sizes->caption_channels);
    add_constant(arch, 1, "caption.fc2", sizes->d, sizes->d);
    for (size_t b = 0; b < sizes->L; b++) {
        fill_block(arch, b, sizes->hidden, fixed);
        name_in_block(name, b, "cross.kv");
        add_constant(arch, 2 + b, name, 2 * sizes->d, sizes->d);
    }
    status = ousac_arch_check(arch, error);
    if (status) {
        ousac_arch_free(arch);
        status = OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                            "PixArt of %zu blocks, %zu tokens, width %zu: MACs exceed 64 bits", sizes->L,
                            sizes->N, sizes->d);
    }
    return status;
}

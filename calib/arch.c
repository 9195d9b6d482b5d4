#include "calib/arch.h"

#include "formats/memory.h"

#include <stdio.h>
#include <string.h>

ousac_status ousac_arch_create(ousac_arch *arch, size_t sites, size_t groups, size_t modules,
                               size_t constants, ousac_error *error) {
    memset(arch, 0, sizeof *arch);
    arch->sites = ousac_calloc(sites, sizeof *arch->sites);
    arch->groups = ousac_calloc(groups, sizeof *arch->groups);
    arch->modules = ousac_calloc(modules, sizeof *arch->modules);
    arch->constants = ousac_calloc(constants, sizeof *arch->constants);
    if (arch->sites == NULL || arch->groups == NULL || arch->modules == NULL || arch->constants == NULL) {
        ousac_arch_free(arch);
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for an architecture of %zu sites", sites);
    }
    arch->site_count = sites;
    arch->group_count = groups;
    arch->module_count = modules;
    arch->constant_count = constants;
    return OUSAC_STATUS_OK;
}

void ousac_arch_free(ousac_arch *arch) {
    if (arch == NULL)
        return;
    ousac_free(arch->sites);
    ousac_free(arch->groups);
    ousac_free(arch->modules);
    ousac_free(arch->constants);
    memset(arch, 0, sizeof *arch);
}

/* Adds a * b * c to *sum; -1 where that does not fit. */
static int add_product(uint64_t *sum, uint64_t a, uint64_t b, uint64_t c) {
    if (a == 0 || b == 0 || c == 0)
        return 0;
    if (a > UINT64_MAX / b || a * b > UINT64_MAX / c || a * b * c > UINT64_MAX - *sum)
        return -1;
    *sum += a * b * c;
    return 0;
}

static int name_is_valid(const char name[OUSAC_NAME_BYTES]) {
    return name[0] != '\0' && memchr(name, '\0', OUSAC_NAME_BYTES) != NULL;
}

size_t ousac_arch_group_tokens(const ousac_arch *arch, size_t group) {
    return arch->stream[arch->groups[group].stream].tokens;
}

size_t ousac_arch_site_tokens(const ousac_arch *arch, size_t site) {
    return ousac_arch_group_tokens(arch, arch->sites[site].group);
}

size_t ousac_arch_output_tokens(const ousac_arch *arch, size_t module, size_t output) {
    return arch->stream[arch->modules[module].output[output].stream].tokens;
}

size_t ousac_arch_most_tokens(const ousac_arch *arch) {
    size_t most = 0;
    for (size_t i = 0; i < arch->stream_count; i++)
        most = arch->stream[i].tokens > most ? arch->stream[i].tokens : most;
    return most;
}

size_t ousac_arch_output_group(const ousac_arch *arch, size_t module, size_t output) {
    const ousac_module *part = &arch->modules[module];
    for (size_t s = part->first_site + part->site_count; s > part->first_site; s--) {
        const ousac_site *site = &arch->sites[s - 1];
        if (site->stage + 1 != part->stage_count)
            break;
        if (arch->groups[site->group].stream == part->output[output].stream)
            return site->group;
    }
    return SIZE_MAX;
}

int ousac_arch_same_kind(const char *a, const char *b) {
    for (int numbered = 0; *a && *b;) {
        const size_t parts[2] = {strcspn(a, "."), strcspn(b, ".")};
        const int numbers = parts[0] == strspn(a, "0123456789") && parts[1] == strspn(b, "0123456789");
        if (!(numbers && !numbered) && (parts[0] != parts[1] || memcmp(a, b, parts[0]) != 0))
            return 0;
        numbered |= numbers;
        a += parts[0];
        b += parts[1];
        if (*a != *b)
            return 0;
        a += *a == '.';
        b += *b == '.';
    }
    return *a == *b;
}

size_t ousac_arch_kinds(const ousac_arch *arch, size_t regions, size_t *kind, size_t *region) {
    size_t kinds = 0;
    for (size_t g = 0; g < arch->group_count; g++) {
        size_t like = 0; /* the first of its kind */
        while (!ousac_arch_same_kind(arch->groups[like].name, arch->groups[g].name))
            like++;
        kind[g] = like == g ? kinds++ : kind[like];
    }
    for (size_t k = 0; k < kinds; k++) {
        size_t count = 0, i = 0;
        for (size_t g = 0; g < arch->group_count; g++)
            count += kind[g] == k;
        for (size_t g = 0; g < arch->group_count; g++)
            if (kind[g] == k)
                region[g] = i++ * regions / count;
    }
    return kinds;
}

static ousac_status check_streams(const ousac_arch *arch, ousac_error *error) {
    if (arch->stream_count == 0 || arch->stream_count > OUSAC_STREAMS_MAX)
        return OUSAC_FAIL(error, OUSAC_STATUS_INTERNAL, "%zu streams of tokens: expected 1 to %d",
                          arch->stream_count, OUSAC_STREAMS_MAX);
    for (size_t i = 0; i < arch->stream_count; i++)
        if (!name_is_valid(arch->stream[i].name) || arch->stream[i].tokens == 0)
            return OUSAC_FAIL(error, OUSAC_STATUS_INTERNAL,
                              "stream %zu of %zu tokens: expected a name and at least one", i,
                              arch->stream[i].tokens);
    for (size_t i = 0; i < arch->constant_count; i++) {
        const ousac_constant *constant = &arch->constants[i];
        if (!name_is_valid(constant->name) || constant->stream >= arch->stream_count || constant->m == 0 ||
            constant->n == 0)
            return OUSAC_FAIL(error, OUSAC_STATUS_INTERNAL,
                              "constant group %zu of %zu x %zu on stream %zu: expected a name, a shape and a "
                              "stream",
                              i, constant->m, constant->n, constant->stream);
    }
    return OUSAC_STATUS_OK;
}

static ousac_status check_outputs(const ousac_arch *arch, const ousac_module *module, ousac_error *error) {
    if (module->output_count == 0 || module->output_count > OUSAC_OUTPUTS_MAX)
        return OUSAC_FAIL(error, OUSAC_STATUS_INTERNAL, "module %s: %zu outputs: expected 1 to %d",
                          module->name, module->output_count, OUSAC_OUTPUTS_MAX);
    for (size_t i = 0; i < module->output_count; i++) {
        int again = 0;
        for (size_t j = 0; j < i; j++)
            again |= module->output[j].stream == module->output[i].stream;
        if (module->output[i].width == 0 || module->output[i].stream >= arch->stream_count || again)
            return OUSAC_FAIL(
                error, OUSAC_STATUS_INTERNAL,
                "module %s: output %zu of width %zu on stream %zu: expected a width, and a stream "
                "of its own",
                module->name, i, module->output[i].width, module->output[i].stream);
    }
    return OUSAC_STATUS_OK;
}

static ousac_status check_groups(const ousac_arch *arch, ousac_error *error) {
    size_t next = 0;
    for (size_t g = 0; g < arch->group_count; g++) {
        const ousac_group *group = &arch->groups[g];
        if (!name_is_valid(group->name))
            return OUSAC_FAIL(error, OUSAC_STATUS_INTERNAL, "group %zu: expected a name", g);
        if (group->first_site != next || group->site_count == 0 ||
            group->site_count > arch->site_count - next)
            return OUSAC_FAIL(error, OUSAC_STATUS_INTERNAL,
                              "group %s: sites %zu + %zu: expected to begin at %zu", group->name,
                              group->first_site, group->site_count, next);
        next += group->site_count;
        if (group->stream >= arch->stream_count)
            return OUSAC_FAIL(error, OUSAC_STATUS_INTERNAL, "group %s: stream %zu: expected below %zu",
                              group->name, group->stream, arch->stream_count);
        if (group->side != OUSAC_SIDE_INPUT && (group->side != OUSAC_SIDE_OUTPUT || group->site_count != 1))
            return OUSAC_FAIL(
                error, OUSAC_STATUS_INTERNAL,
                "group %s: side %d of %zu sites: expected the output side for single sites only", group->name,
                (int)group->side, group->site_count);
        for (size_t s = group->first_site; s < next; s++) {
            const ousac_site *site = &arch->sites[s];
            const size_t dim = group->side == OUSAC_SIDE_INPUT ? site->n : site->m;
            if (site->group != g || dim != group->dim)
                return OUSAC_FAIL(error, OUSAC_STATUS_INTERNAL,
                                  "site %s: group %zu, dimension %zu: expected %zu, %zu", site->name,
                                  site->group, dim, g, group->dim);
            if (site->module != arch->sites[group->first_site].module ||
                site->stage != arch->sites[group->first_site].stage)
                return OUSAC_FAIL(error, OUSAC_STATUS_INTERNAL, "site %s: expected the stage of its group",
                                  site->name);
        }
    }
    if (next != arch->site_count)
        return OUSAC_FAIL(error, OUSAC_STATUS_INTERNAL, "groups hold %zu sites: expected %zu", next,
                          arch->site_count);
    return OUSAC_STATUS_OK;
}

static ousac_status check_modules(const ousac_arch *arch, ousac_error *error) {
    size_t next = 0;
    for (size_t i = 0; i < arch->module_count; i++) {
        const ousac_module *module = &arch->modules[i];
        if (!name_is_valid(module->name))
            return OUSAC_FAIL(error, OUSAC_STATUS_INTERNAL, "module %zu: expected a name", i);
        if (module->first_site != next || module->site_count == 0 ||
            module->site_count > arch->site_count - next)
            return OUSAC_FAIL(error, OUSAC_STATUS_INTERNAL,
                              "module %s: sites %zu + %zu: expected to begin at %zu", module->name,
                              module->first_site, module->site_count, next);
        next += module->site_count;
        if (module->block >= arch->block_count)
            return OUSAC_FAIL(error, OUSAC_STATUS_INTERNAL, "module %s: block %zu: expected below %zu",
                              module->name, module->block, arch->block_count);
        const ousac_status status = check_outputs(arch, module, error);
        if (status != OUSAC_STATUS_OK)
            return status;
        size_t stage = 0;
        for (size_t s = module->first_site; s < next; s++) {
            const ousac_site *site = &arch->sites[s];
            /* Stages in order and none empty: the first is 0, each next the same or one more. */
            if (site->stage != stage && (site->stage != stage + 1 || s == module->first_site))
                return OUSAC_FAIL(error, OUSAC_STATUS_INTERNAL,
                                  "site %s: stage %zu: expected %zu or the next", site->name, site->stage,
                                  stage);
            stage = site->stage;
            if (site->module != i || site->block != module->block)
                return OUSAC_FAIL(error, OUSAC_STATUS_INTERNAL,
                                  "site %s: module %zu, block %zu: expected %zu, %zu", site->name,
                                  site->module, site->block, i, module->block);
        }
        if (stage + 1 != module->stage_count)
            return OUSAC_FAIL(error, OUSAC_STATUS_INTERNAL, "module %s: %zu stages: expected %zu",
                              module->name, module->stage_count, stage + 1);
    }
    if (next != arch->site_count)
        return OUSAC_FAIL(error, OUSAC_STATUS_INTERNAL, "modules hold %zu sites: expected %zu", next,
                          arch->site_count);
    return OUSAC_STATUS_OK;
}

ousac_status ousac_arch_check(const ousac_arch *arch, ousac_error *error) {
    uint64_t macs = arch->other_macs;
    int overflow = 0;
    ousac_status status = check_streams(arch, error);
    if (status != OUSAC_STATUS_OK)
        return status;
    if (arch->site_count == 0 || arch->sites == NULL || arch->groups == NULL || arch->modules == NULL)
        return OUSAC_FAIL(error, OUSAC_STATUS_INTERNAL, "architecture of %zu sites: expected at least one",
                          arch->site_count);
    for (size_t s = 0; s < arch->site_count; s++) {
        const ousac_site *site = &arch->sites[s];
        if (!name_is_valid(site->name) || site->m == 0 || site->n == 0)
            return OUSAC_FAIL(error, OUSAC_STATUS_INTERNAL,
                              "site %zu of %zu x %zu: expected a name and a shape", s, site->m, site->n);
        overflow |= site->m > SIZE_MAX - site->n ||
                    add_product(&macs, ousac_arch_most_tokens(arch), site->m, site->n) != 0;
    }
    for (size_t i = 0; i < arch->constant_count; i++)
        overflow |= add_product(&macs, arch->stream[arch->constants[i].stream].tokens, arch->constants[i].m,
                                arch->constants[i].n) != 0;
    for (size_t i = 0; i < arch->module_count; i++)
        overflow |= add_product(&macs, arch->modules[i].fixed_macs, 1, 1) != 0;
    if (overflow)
        return OUSAC_FAIL(error, OUSAC_STATUS_INTERNAL,
                          "a forward of %zu tokens and %zu sites: its MACs exceed 64 bits",
                          ousac_arch_most_tokens(arch), arch->site_count);
    status = check_groups(arch, error);
    return status != OUSAC_STATUS_OK ? status : check_modules(arch, error);
}

/* --- DiT --- */

enum { DIT_SITES = 6, DIT_GROUPS = 4, DIT_MODULES = 2 };

/* One row per site of a block: where it belongs, and its shape in units of the width (0) and the hidden width
 * (1). */
static const struct {
    const char *name;
    size_t group, module, stage;
    int rows_hidden, cols_hidden;
} dit_sites[DIT_SITES] = {
    {"attn.q", 0, 0, 0, 0, 0},    {"attn.k", 0, 0, 0, 0, 0},  {"attn.v", 0, 0, 0, 0, 0},
    {"attn.proj", 1, 0, 1, 0, 0}, {"mlp.fc1", 2, 1, 0, 1, 0}, {"mlp.fc2", 3, 1, 1, 0, 1},
};
static const char *const dit_groups[DIT_GROUPS] = {"attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"};
static const char *const dit_modules[DIT_MODULES] = {"attn", "mlp"};

static void name_in_block(char name[OUSAC_NAME_BYTES], size_t block, const char *part) {
    snprintf(name, OUSAC_NAME_BYTES, "blocks.%zu.%s", block, part);
}

static void fill_dit_block(ousac_arch *arch, size_t block, size_t hidden, uint64_t attention_macs) {
    ousac_group *groups = arch->groups + block * DIT_GROUPS;
    ousac_module *modules = arch->modules + block * DIT_MODULES;
    for (size_t i = 0; i < DIT_GROUPS; i++)
        name_in_block(groups[i].name, block, dit_groups[i]);
    groups[DIT_GROUPS - 1].consumed = 1; /* fc2 */
    for (size_t i = 0; i < DIT_MODULES; i++) {
        name_in_block(modules[i].name, block, dit_modules[i]);
        modules[i].block = block;
        modules[i].output_count = 1;
        modules[i].output[0].width = arch->width;
        modules[i].fixed_macs = i == 0 ? attention_macs : 0;
    }
    for (size_t i = 0; i < DIT_SITES; i++) {
        ousac_site *site = arch->sites + block * DIT_SITES + i;
        ousac_group *group = groups + dit_sites[i].group;
        ousac_module *module = modules + dit_sites[i].module;
        name_in_block(site->name, block, dit_sites[i].name);
        site->block = block;
        site->group = block * DIT_GROUPS + dit_sites[i].group;
        site->module = block * DIT_MODULES + dit_sites[i].module;
        site->stage = dit_sites[i].stage;
        site->m = dit_sites[i].rows_hidden ? hidden : arch->width;
        site->n = dit_sites[i].cols_hidden ? hidden : arch->width;
        if (group->site_count++ == 0)
            group->first_site = block * DIT_SITES + i;
        group->side = site->n <= site->m ? OUSAC_SIDE_INPUT : OUSAC_SIDE_OUTPUT;
        group->dim = group->side == OUSAC_SIDE_INPUT ? site->n : site->m;
        if (module->site_count++ == 0)
            module->first_site = block * DIT_SITES + i;
        module->stage_count = site->stage + 1;
    }
}

ousac_status ousac_arch_create_dit(ousac_arch *arch, size_t blocks, size_t tokens, size_t width,
                                   size_t hidden, ousac_error *error) {
    uint64_t attention = 0, modulation = 0;
    ousac_status status = OUSAC_STATUS_OK;
    memset(arch, 0, sizeof *arch);
    if (blocks == 0 || tokens == 0 || width == 0 || hidden == 0)
        return OUSAC_FAIL(
            error, OUSAC_STATUS_USAGE,
            "DiT of %zu blocks, %zu tokens, width %zu, hidden width %zu: expected each to be at least 1",
            blocks, tokens, width, hidden);
    /* 2 N^2 d and 6 L d^2; the sum over sites is checked at the end. */
    if (tokens > UINT64_MAX / 2 || blocks > SIZE_MAX / DIT_SITES ||
        add_product(&attention, 2 * (uint64_t)tokens, tokens, width) != 0 ||
        add_product(&modulation, 6 * (uint64_t)blocks, width, width) != 0)
        return OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                          "DiT of %zu blocks, %zu tokens, width %zu: MACs exceed 64 bits", blocks, tokens,
                          width);
    status = ousac_arch_create(arch, blocks * DIT_SITES, blocks * DIT_GROUPS, blocks * DIT_MODULES, 0, error);
    if (status != OUSAC_STATUS_OK)
        return status;
    snprintf(arch->family, sizeof arch->family, "dit");
    arch->stream_count = 1;
    snprintf(arch->stream[0].name, sizeof arch->stream[0].name, "image");
    arch->stream[0].tokens = tokens;
    arch->width = width;
    arch->block_count = blocks;
    arch->other_macs = modulation;
    for (size_t block = 0; block < blocks; block++)
        fill_dit_block(arch, block, hidden, attention);
    status = ousac_arch_check(arch, error);
    if (status != OUSAC_STATUS_OK) {
        ousac_arch_free(arch);
        status = OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                            "DiT of %zu blocks, %zu tokens, width %zu, hidden width %zu: MACs exceed 64 bits",
                            blocks, tokens, width, hidden);
    }
    return status;
}

size_t ousac_arch_find_site(const ousac_arch *arch, const char *name) {
    for (size_t s = 0; s < arch->site_count; s++)
        if (strcmp(arch->sites[s].name, name) == 0)
            return s;
    return SIZE_MAX;
}

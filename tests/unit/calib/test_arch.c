/* The description of a model: what a DiT looks like, and that contradictions are found. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "calib/arch.h"
#include "formats/memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void dit_has_its_sites_groups_and_modules(void **unused) {
    static const char *const names[] = {"blocks.3.attn.q",    "blocks.3.attn.k",  "blocks.3.attn.v",
                                        "blocks.3.attn.proj", "blocks.3.mlp.fc1", "blocks.3.mlp.fc2"};
    static const char *const groups[] = {"blocks.3.attn.qkv",  "blocks.3.attn.qkv", "blocks.3.attn.qkv",
                                         "blocks.3.attn.proj", "blocks.3.mlp.fc1",  "blocks.3.mlp.fc2"};
    static const size_t m[] = {48, 48, 48, 48, 200, 48}, n[] = {48, 48, 48, 48, 48, 200};
    static const size_t stage[] = {0, 0, 0, 1, 0, 1};
    ousac_arch arch;
    (void)unused;
    assert_int_equal(ousac_arch_create_dit(&arch, 5, 16, 48, 200, NULL), OUSAC_STATUS_OK);
    assert_string_equal(arch.family, "dit");
    assert_int_equal(arch.site_count, 30);
    assert_int_equal(arch.group_count, 20);
    assert_int_equal(arch.module_count, 10);
    assert_int_equal(arch.stream[0].tokens, 16);
    assert_int_equal(arch.width, 48);
    assert_int_equal(arch.other_macs, 5 * 6 * 48 * 48);
    for (size_t i = 0; i < 6; i++) {
        const size_t s = ousac_arch_find_site(&arch, names[i]);
        assert_int_equal(s, 18 + i);
        const ousac_site *site = &arch.sites[s];
        const ousac_group *group = &arch.groups[site->group];
        assert_string_equal(group->name, groups[i]);
        assert_string_equal(arch.modules[site->module].name, i < 4 ? "blocks.3.attn" : "blocks.3.mlp");
        assert_int_equal(site->block, 3);
        assert_int_equal(site->m, m[i]);
        assert_int_equal(site->n, n[i]);
        assert_int_equal(site->stage, stage[i]);
        assert_int_equal(group->side, i == 5 ? OUSAC_SIDE_OUTPUT : OUSAC_SIDE_INPUT);
        assert_int_equal(group->dim, 48);
        assert_int_equal(group->consumed, i == 5);
        assert_true(s >= group->first_site && s < group->first_site + group->site_count);
    }
    assert_int_equal(arch.modules[6].fixed_macs, 2 * 16 * 16 * 48);
    assert_int_equal(arch.modules[7].fixed_macs, 0);
    assert_int_equal(arch.modules[6].stage_count, 2);
    assert_int_equal(arch.modules[6].output_count, 1);
    assert_int_equal(arch.modules[6].output[0].width, 48);
    assert_int_equal(ousac_arch_output_group(&arch, 6, 0), 13);
    assert_int_equal(ousac_arch_check(&arch, NULL), OUSAC_STATUS_OK);
    assert_true(ousac_arch_find_site(&arch, "blocks.5.attn.q") == SIZE_MAX);
    assert_true(ousac_arch_find_site(&arch, "") == SIZE_MAX);
    ousac_arch_free(&arch);
    assert_null(arch.sites);
    assert_int_equal(arch.site_count, 0);
    ousac_arch_free(&arch);
    ousac_arch_free(NULL);
}

static void absurd_sizes_are_refused(void **unused) {
    static const size_t sizes[][4] = {{0, 1, 1, 1},
                                      {1, 0, 1, 1},
                                      {1, 1, 0, 1},
                                      {1, 1, 1, 0},
                                      {1, SIZE_MAX, 4, 4},
                                      {1, (size_t)1 << 40, (size_t)1 << 20, 4},
                                      {1, 4, (size_t)1 << 33, 4},
                                      {1, (size_t)1 << 30, 1024, (size_t)1 << 40},
                                      {SIZE_MAX / 2, 1, 1, 1}};
    (void)unused;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        ousac_arch arch;
        ousac_error error = {0};
        assert_int_equal(
            ousac_arch_create_dit(&arch, sizes[i][0], sizes[i][1], sizes[i][2], sizes[i][3], &error),
            OUSAC_STATUS_USAGE);
        assert_null(arch.sites);
        assert_non_null(strstr(error.message, "DiT"));
    }
}

static void add_constant(ousac_arch *arch, ousac_constant constant) {
    ousac_free(arch->constants);
    arch->constants = ousac_calloc(1, sizeof constant);
    assert_non_null(arch->constants);
    arch->constants[0] = constant;
    arch->constant_count = 1;
}

/* One contradiction each, on an otherwise sound architecture. */
static void contradictions_are_found(void **unused) {
    enum { CASES = 32 };
    (void)unused;
    for (int i = 0; i < CASES; i++) {
        ousac_arch arch;
        ousac_error error = {0};
        assert_int_equal(ousac_arch_create_dit(&arch, 2, 4, 8, 32, NULL), OUSAC_STATUS_OK);
        assert_int_equal(ousac_arch_check(&arch, NULL), OUSAC_STATUS_OK);
        switch (i) {
        case 0:
            arch.sites[4].m = 0;
            break;
        case 1:
            arch.sites[4].name[0] = '\0';
            break;
        case 2:
            memset(arch.sites[4].name, 'x', OUSAC_NAME_BYTES);
            break;
        case 3:
            arch.sites[4].group = 0;
            break;
        case 4:
            arch.sites[4].module = 0;
            break;
        case 5:
            arch.sites[4].block = 1;
            break;
        case 6:
            arch.sites[4].stage = 1;
            break;
        case 7:
            arch.sites[5].stage = 2;
            break;
        case 8:
            arch.sites[1].n = 9;
            break;
        case 9:
            arch.groups[0].site_count = 2;
            break;
        case 10:
            arch.groups[0].side = OUSAC_SIDE_OUTPUT;
            break;
        case 11:
            arch.groups[3].dim = 32;
            break;
        case 12:
            arch.groups[7].site_count = SIZE_MAX;
            break;
        case 13:
            arch.modules[1].first_site = 5;
            break;
        case 14:
            arch.modules[1].stage_count = 3;
            break;
        case 15:
            arch.modules[1].block = 2;
            break;
        case 16:
            arch.modules[3].site_count = SIZE_MAX;
            break;
        case 17:
            arch.stream[0].tokens = 0;
            break;
        case 18:
            arch.other_macs = UINT64_MAX;
            break;
        case 19:
            arch.stream_count = 0;
            break;
        case 20:
            arch.stream_count = OUSAC_STREAMS_MAX + 1;
            break;
        case 21:
            arch.stream[0].name[0] = '\0';
            break;
        case 22:
            arch.groups[3].stream = 1;
            break;
        case 23:
            arch.modules[1].output_count = 0;
            break;
        case 24:
            arch.modules[1].output_count = OUSAC_OUTPUTS_MAX + 1;
            break;
        case 25:
            arch.modules[1].output[0].stream = 1;
            break;
        case 26:
            arch.modules[1].output[0].width = 0;
            break;
        case 27: /* two outputs on one stream */
            arch.modules[1].output_count = 2;
            arch.modules[1].output[1] = arch.modules[1].output[0];
            break;
        case 28:
            add_constant(&arch, (ousac_constant){"c", 1, 2, 3});
            break;
        case 29:
            add_constant(&arch, (ousac_constant){"c", 0, 0, 3});
            break;
        case 30:
            add_constant(&arch, (ousac_constant){"", 0, 2, 3});
            break;
        default:
            arch.group_count--;
            break;
        }
        assert_int_equal(ousac_arch_check(&arch, &error), OUSAC_STATUS_INTERNAL);
        assert_true(strlen(error.message) > 0);
        ousac_arch_free(&arch);
    }
}

static void every_failed_allocation_is_reported(void **unused) {
    (void)unused;
    long allowed = 0;
    for (;; allowed++) {
        ousac_arch arch;
        ousac_memory_fail_after(allowed);
        const ousac_status status = ousac_arch_create_dit(&arch, 2, 4, 8, 32, NULL);
        ousac_memory_fail_after(-1);
        if (status == OUSAC_STATUS_OK) {
            ousac_arch_free(&arch);
            break;
        }
        assert_int_equal(status, OUSAC_STATUS_MEMORY);
        assert_null(arch.sites);
    }
    assert_int_equal(allowed, 4);
}

static void kinds_are_names_but_for_the_block(void **unused) {
    static const struct {
        const char *a, *b;
        int same;
    } cases[] = {{"blocks.0.attn.q", "blocks.11.attn.q", 1},
                 {"blocks.0.attn.q", "blocks.0.attn.k", 0},
                 {"blocks.0.attn.q", "single.0.attn.q", 0},
                 {"blocks.0.ff.net.0", "blocks.1.ff.net.2", 0}, /* the second number is no block's */
                 {"blocks.0.ff.net.2", "blocks.1.ff.net.2", 1},
                 {"blocks.0.attn", "blocks.0.attn.q", 0},
                 {"blocks.0.attn.q", "blocks.0", 0},
                 {"blocks.3", "blocks.4", 1},
                 {"blocks.3", "blocks.a", 0},
                 {"x_embedder", "x_embedder", 1},
                 {"site1", "site2", 0}};
    (void)unused;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        if (ousac_arch_same_kind(cases[i].a, cases[i].b) != cases[i].same ||
            ousac_arch_same_kind(cases[i].b, cases[i].a) != cases[i].same)
            fail_msg("%s and %s", cases[i].a, cases[i].b);
    }
}

/* Seven groups of one kind and three of another, cut each by itself. */
static void regions_are_cut_by_kind(void **unused) {
    enum { GROUPS = 10 };
    static const size_t expected[GROUPS] = {0, 0, 0, 0, 1, 1, 1, 0, 0, 1};
    ousac_arch arch = {.group_count = GROUPS};
    size_t kind[GROUPS], region[GROUPS];
    (void)unused;
    arch.groups = ousac_calloc(GROUPS, sizeof *arch.groups);
    assert_non_null(arch.groups);
    for (size_t g = 0; g < GROUPS; g++)
        (void)snprintf(arch.groups[g].name, sizeof arch.groups[g].name, "%s.%zu.qkv",
                       g < 7 ? "double" : "single", g < 7 ? g : g - 7);
    assert_int_equal(ousac_arch_kinds(&arch, 2, kind, region), 2);
    for (size_t g = 0; g < GROUPS; g++) {
        assert_int_equal(kind[g], g >= 7);
        assert_int_equal(region[g], expected[g]);
    }
    ousac_free(arch.groups);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(kinds_are_names_but_for_the_block),
        cmocka_unit_test(regions_are_cut_by_kind),
        cmocka_unit_test(dit_has_its_sites_groups_and_modules),
        cmocka_unit_test(absurd_sizes_are_refused),
        cmocka_unit_test(contradictions_are_found),
        cmocka_unit_test(every_failed_allocation_is_reported),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* How a bundle stores its factors, and what their rounding adds (formats/BUNDLE.md, "Storage"). */
#include "tools/cli/print.h"
#include "tools/show/inspect.h"

#include "formats/dtype.h"
#include "profile/files/archive.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DTYPES = 8 };

typedef struct storage_sum {
    size_t count[2][DTYPES]; /* of A and of B */
    uint64_t stored, decoded_as_f32;
    double worst;
    const char *worst_site; /* NULL where nothing is recorded */
} storage_sum;

/* The number under "added.SITE" or "added.SITE.A"; NAN where there is none. */
static double added(const oca_file *file, const char *site, const char *suffix) {
    char key[OUSAC_KEY_BYTES], *end = NULL;
    (void)snprintf(key, sizeof key, "added.%s%s", site, suffix);
    const char *text = oca_metadata(file, key);
    const double value = text ? strtod(text, &end) : NAN;
    return text && end != text && !*end ? value : NAN;
}

static void add_tensor(inspection *in, const oca_file *file, cJSON *list, const char *site, int is_b,
                       storage_sum *sum) {
    char name[OUSAC_TENSOR_NAME_BYTES];
    oca_tensor tensor;
    (void)snprintf(name, sizeof name, "factor/%s/%c", site, is_b ? 'B' : 'A');
    if (oca_tensor_find(file, name, &tensor) != OCA_OK)
        return;
    sum->count[is_b][tensor.dtype]++;
    sum->stored += tensor.stored_bytes;
    sum->decoded_as_f32 += tensor.count * sizeof(float);
    if (in->common->json) {
        cJSON *item = ousac_json_put_object(&in->doc, list, NULL);
        ousac_json_put_text(&in->doc, item, "tensor", name);
        ousac_json_put_text(&in->doc, item, "dtype", ousac_dtype_name((ousac_dtype)(int)tensor.dtype));
        ousac_json_put_real(&in->doc, item, "added", added(file, site, is_b ? ".B" : ".A"));
    } else if (in->tensors) {
        cli_printf("  %-32s %-5s adds %.2g\n", name, ousac_dtype_name((ousac_dtype)(int)tensor.dtype),
                   added(file, site, is_b ? ".B" : ".A"));
    }
}

static void print_counts(const storage_sum *sum, int is_b) {
    cli_printf("%c", is_b ? 'B' : 'A');
    for (int d = 0; d < DTYPES; d++)
        if (sum->count[is_b][d] > 0)
            cli_printf(" %zu x %s", sum->count[is_b][d], ousac_dtype_name((ousac_dtype)d));
}

ousac_status inspect_storage(inspection *in, const oca_file *file, const ousac_arch *arch,
                             ousac_error *error) {
    storage_sum sum = {.worst = 0};
    char size[DESCRIBE_BYTES];
    (void)error;
    cJSON *list = in->common->json ? ousac_json_put_array(&in->doc, in->doc.root, "storage") : NULL;
    for (size_t s = 0; s < arch->site_count; s++) {
        const double of_site = added(file, arch->sites[s].name, "");
        for (int is_b = 0; is_b < 2; is_b++)
            add_tensor(in, file, list, arch->sites[s].name, is_b, &sum);
        if (!isnan(of_site) && (!sum.worst_site || of_site > sum.worst)) {
            sum.worst = of_site;
            sum.worst_site = arch->sites[s].name;
        }
    }
    if (in->common->json) {
        if (sum.worst_site)
            ousac_json_put_real(&in->doc, in->doc.root, "added_at_most", sum.worst);
        return OUSAC_STATUS_OK;
    }
    if (sum.decoded_as_f32 == 0)
        return OUSAC_STATUS_OK;
    describe_bytes(size, sum.stored);
    cli_printf("factors   ");
    print_counts(&sum, 0);
    cli_printf(", ");
    print_counts(&sum, 1);
    cli_printf("; %s, %.1f %% of float32\n", size, 100 * (double)sum.stored / (double)sum.decoded_as_f32);
    if (sum.worst_site)
        cli_printf("          rounding adds at most %.2g of a layer's error, at %s\n", sum.worst,
                   sum.worst_site);
    return OUSAC_STATUS_OK;
}

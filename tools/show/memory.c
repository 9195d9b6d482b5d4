#include "tools/cli/print.h"
#include "tools/show/show.h"

#include <stdio.h>

static ousac_status print_json(const ousac_memory_plan *plan, const char *command, const dry_search *search,
                               ousac_error *error) {
    ousac_json_doc doc;
    ousac_json_begin(&doc);
    ousac_json_put_text(&doc, doc.root, "dry_run", command);
    ousac_json_put_u64(&doc, doc.root, "peak_bytes", plan->peak);
    ousac_json_put_text(&doc, doc.root, "phase", plan->phase);
    cJSON *list = ousac_json_put_array(&doc, doc.root, "parts");
    for (size_t i = 0; i < plan->part_count; i++) {
        cJSON *item = ousac_json_put_object(&doc, list, NULL);
        ousac_json_put_text(&doc, item, "name", plan->part[i].name);
        ousac_json_put_u64(&doc, item, "bytes", plan->part[i].bytes);
    }
    ousac_json_put_u64(&doc, doc.root, "threads", plan->threads);
    ousac_json_put_bool(&doc, doc.root, "spilled", plan->spilled);
    ousac_json_put_u64(&doc, doc.root, "macs", plan->macs);
    list = ousac_json_put_array(&doc, doc.root, "files");
    for (size_t i = 0; i < plan->file_count; i++)
        ousac_json_put_text(&doc, list, NULL, plan->file[i]);
    if (search)
        dry_search_put(&doc, ousac_json_put_object(&doc, doc.root, "search"), search);
    const ousac_status status = cli_json_print(&doc, error);
    ousac_json_end(&doc);
    return status;
}

ousac_status memory_print(const ousac_memory_plan *plan, const cli_common *common, const char *command,
                          const dry_search *search, ousac_error *error) {
    if (common->json)
        return print_json(plan, command, search, error);
    cli_printf("peak memory: at most %.3f GiB, while %s, on %zu thread%s%s\n", (double)plan->peak / 0x1p30,
               plan->phase, plan->threads, plan->threads == 1 ? "" : "s",
               plan->spilled ? ", moments in a nameless file" : "");
    for (size_t i = 0; i < plan->part_count; i++)
        cli_printf("  %-34s %9.3f GiB\n", plan->part[i].name, (double)plan->part[i].bytes / 0x1p30);
    cli_printf("multiply-accumulates: %.4g\n", (double)plan->macs);
    if (search)
        dry_search_print(search);
    for (size_t i = 0; i < plan->file_count; i++)
        cli_printf("would write %s\n", plan->file[i]);
    return OUSAC_STATUS_OK;
}

/* Results as text on standard output and as JSON: what the pipeline found, told to a person and to a machine.
 */
#ifndef OUSAC_SHOW_H
#define OUSAC_SHOW_H

#include "formats/json_build.h"
#include "pipeline/allocate.h"
#include "pipeline/compare.h"
#include "pipeline/evaluation.h"
#include "pipeline/memory_plan.h"
#include "pipeline/record_auto.h"
#include "pipeline/transfer.h"
#include "pipeline/yardstick.h"
#include "tools/cli/cli.h"

void choice_print(const ousac_choice *choice, const ousac_arch *arch);
void choice_put(ousac_json_doc *doc, cJSON *object, const ousac_choice *choice, const ousac_arch *arch);

void convergence_print(const ousac_record_convergence *found);

/* Keys of the JSON form: formats/EVAL.md. */
void evaluation_print(const ousac_eval *result);
void evaluation_put(ousac_json_doc *doc, cJSON *object, const ousac_eval *result);
/* The JSON form into a file. */
ousac_status evaluation_save(const ousac_eval *result, const char *path, ousac_error *error);

void transfer_print(const ousac_transfer *t, const ousac_eval *result);
void transfer_put(ousac_json_doc *doc, cJSON *object, const ousac_transfer *t, const ousac_eval *result);

void compare_print(const ousac_compare_cell *cell);
void compare_put(ousac_json_doc *doc, cJSON *object, const ousac_compare_cell *cell);

void yardstick_print(const ousac_yardstick *result);
void yardstick_put(ousac_json_doc *doc, cJSON *object, const ousac_yardstick *result);

/* What --dry-run prints. */
ousac_status memory_print(const ousac_memory_plan *plan, const cli_common *common, const char *command,
                          ousac_error *error);

#endif

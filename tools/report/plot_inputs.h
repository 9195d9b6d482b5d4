/* What plots and reports are made of: files given on the command line, told apart by their content, opened,
 * and checked to belong together. A directory stands for the files that `ousac calibrate` writes there.
 *
 * Read-only once loaded. Nothing here runs a model.
 */
#ifndef OUSAC_PLOT_INPUTS_H
#define OUSAC_PLOT_INPUTS_H

#include "calib/arch.h"
#include "formats/schedule.h"
#include "profile/bundle/bundle.h"
#include "profile/bundle/plan.h"
#include "profile/bundle/provenance.h"
#include "profile/files/archive.h"
#include "profile/record/profile.h"
#include "tools/cli/files.h"

#include <cjson/cJSON.h>
#include <stddef.h>
#include <stdint.h>

enum { PLOT_INPUTS_MAX = 16, PLOT_LABEL_BYTES = 96 };

/* The scalars of a profile, without its moments, which may be gigabytes and which no plot shows. */
typedef struct plot_profile {
    char *path;
    char *run; /* JSON of what the run cost; NULL where the file does not say */
    char digest[OUSAC_DIGEST_CHARS], weights_digest[OUSAC_DIGEST_CHARS], model_digest[OUSAC_DIGEST_CHARS];
    uint64_t bytes, seed, micro_batch, tokens_used, segments;
    char ranges[256]; /* "FIRST+COUNT ...", as the file has it, cut where longer */
    ousac_arch arch;
    ousac_schedule schedule;
    int *gate;                          /* (S, OUSAC_BRANCHES): effective, -1 where not evaluated */
    int *age;                           /* (S, OUSAC_BRANCHES) */
    double *weight;                     /* (S, OUSAC_BRANCHES, groups) */
    double *scalar[OUSAC_SCALAR_COUNT]; /* (S, OUSAC_BRANCHES, width of the scalar) */
} plot_profile;

typedef struct plot_bundle {
    char *path;
    char label[PLOT_LABEL_BYTES];         /* what tells it from the other bundles */
    char file_digest[OUSAC_DIGEST_CHARS]; /* SHA-256 of the file's bytes */
    char profile_digest[OUSAC_DIGEST_CHARS];
    uint64_t bytes;
    ousac_bundle *bundle;
    ousac_archive archive;
    ousac_arch arch;
    ousac_schedule schedule;
    ousac_provenance provenance; /* of_weights: the spectra speak of the weights, not of the deltas */
    const ousac_plan *plan;      /* the one to show; NULL where the bundle has none */
    const plot_profile *profile; /* of which it was made; NULL where it is not among the inputs */
} plot_bundle;

typedef struct plot_json {
    char *path;
    cJSON *root;
} plot_json;

typedef struct plot_inputs {
    plot_bundle bundle[PLOT_INPUTS_MAX];
    plot_profile profile[PLOT_INPUTS_MAX];
    plot_json evaluation[PLOT_INPUTS_MAX], quality[PLOT_INPUTS_MAX], cost[PLOT_INPUTS_MAX],
        search[PLOT_INPUTS_MAX];
    size_t bundle_count, profile_count, evaluation_count, quality_count, cost_count, search_count;
    ousac_schedule given;   /* a schedule file; step_count 0 for none */
    ousac_plan *given_plan; /* a plan file; NULL for none */
    char *samples;          /* path of an archive of samples; NULL for none */
    const char *site;       /* asked for; NULL: the one with the largest share left */
} plot_inputs;

/* Loads every file. `plan` names the plan to show; NULL: the one named "default", or that the evaluation
 * names, or the first. Errors: IO and FORMAT of the files; MISMATCH where a profile, a plan or an evaluation
 * is of another model or schedule than the only bundle; USAGE for a plan that a bundle lacks and for more
 * than PLOT_INPUTS_MAX files of a kind. Free with plot_inputs_free, also after a failure. */
ousac_status plot_inputs_load(plot_inputs *inputs, char *const *paths, size_t count, const char *plan,
                              ousac_error *error);
void plot_inputs_free(plot_inputs *inputs);
/* The files that `path` stands for where it is a directory. */
void plot_inputs_list(cli_files *files, const char *path);

/* From the first bundle, else the first profile, else (the schedule only) the schedule file; NULL for none.
 */
const ousac_schedule *plot_inputs_schedule(const plot_inputs *inputs);
const ousac_arch *plot_inputs_arch(const plot_inputs *inputs);
const ousac_plan *plot_inputs_plan(const plot_inputs *inputs);

/* The error spectrum of a site: min(m, n) numbers into `lambda`. */
ousac_status plot_bundle_curve(const plot_bundle *bundle, size_t site, double *lambda, ousac_error *error);

/* Numbers and texts at a path of keys such as "shares/total"; NAN and NULL where there is none. */
double plot_json_real(const cJSON *root, const char *path);
const char *plot_json_text(const cJSON *root, const char *path);
const cJSON *plot_json_item(const cJSON *root, const char *path);

#endif

/* The tables behind the plots, computed from files and written as tab-separated values. Columns and units:
 * plots/TABLES.md. Each function fills a table that table_free releases, also where it fails, and leaves an
 * empty table with a reason in `nothing` where its inputs hold nothing to show.
 */
#ifndef OUSAC_TABLES_H
#define OUSAC_TABLES_H

#include "tools/report/plot_inputs.h"
#include "tools/report/samples.h"
#include "tools/report/table.h"

/* "attn.q" of "blocks.3.attn.q"; a name of another form is its own kind. Points into `name`. */
const char *tables_kind(const char *name);

/* tools/report/tables_profile.c */
ousac_status tables_schedule(table *t, const ousac_schedule *schedule, ousac_error *error);
ousac_status tables_delta(table *t, const plot_profile *profile, ousac_error *error);

/* tools/report/tables_bundle.c */
ousac_status tables_error(table *t, const plot_inputs *inputs, ousac_error *error);
ousac_status tables_ranks(table *t, const plot_inputs *inputs, ousac_error *error);
ousac_status tables_spectra(table *t, const plot_bundle *bundle, ousac_error *error);
/* Index of inputs->site, or of the site that keeps the largest share of its energy uncorrected; USAGE for a
 * name that the bundle lacks. */
ousac_status tables_choose_site(const plot_bundle *bundle, const char *name, size_t *site,
                                ousac_error *error);
ousac_status tables_spectrum(table *t, const plot_bundle *bundle, size_t site, ousac_error *error);

/* tools/report/tables_curve.c */
ousac_status tables_curve(table *t, const plot_inputs *inputs, ousac_error *error);
ousac_status tables_stages(table *t, const plot_inputs *inputs, ousac_error *error);

/* tools/report/tables_result.c */
ousac_status tables_macs(table *t, const plot_inputs *inputs, ousac_error *error);
ousac_status tables_pareto(table *t, const plot_inputs *inputs, ousac_error *error);
ousac_status tables_samples(table *t, const samples *s, ousac_error *error);
ousac_status tables_evaluation(table *t, const plot_inputs *inputs, ousac_error *error);
ousac_status tables_runs(table *t, const plot_inputs *inputs, ousac_error *error);

#endif

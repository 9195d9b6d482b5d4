/* Tables of plans and spectra. "Share left" of a site at a rank is the root of what the rank leaves of the
 * energy of the step-weighted deltas that the factors were made from: 1 at rank 0, that is reuse; 0 for the
 * exact product.
 */
#include "tools/report/tables.h"

#include "calib/choose/allocate.h"
#include "calib/cost.h"
#include "calib/spectra/factors.h"
#include "formats/memory.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static size_t spectrum_size(const ousac_site *site) {
    return site->m < site->n ? site->m : site->n;
}

static size_t largest_spectrum(const ousac_arch *arch) {
    size_t most = 1;
    for (size_t s = 0; s < arch->site_count; s++)
        most = spectrum_size(&arch->sites[s]) > most ? spectrum_size(&arch->sites[s]) : most;
    return most;
}

/* What a plan leaves of each site's energy, (site_count) fractions, and that energy itself. */
static ousac_status energies_left(const plot_bundle *bundle, double *energy, double *fraction,
                                  ousac_error *error) {
    const ousac_arch *arch = &bundle->arch;
    const ousac_ranks ranks = ousac_plan_ranks(bundle->plan);
    ousac_status status = OUSAC_STATUS_OK;
    double *lambda = ousac_malloc(largest_spectrum(arch), sizeof *lambda);
    if (lambda == NULL)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "%s: no memory for a spectrum", bundle->path);
    for (size_t s = 0; !status && s < arch->site_count; s++) {
        const size_t count = spectrum_size(&arch->sites[s]);
        status = plot_bundle_curve(bundle, s, lambda, error);
        if (status)
            break;
        energy[s] = ousac_spectrum_tail(lambda, count, 0);
        fraction[s] = 1;
        switch (ousac_cost_path(arch, s, &ranks)) {
        case OUSAC_PATH_DENSE:
            fraction[s] = 0;
            break;
        case OUSAC_PATH_LOW_RANK:
            fraction[s] = energy[s] > 0 ? ousac_spectrum_tail(lambda, count, ranks.rank[s]) / energy[s] : 0;
            break;
        case OUSAC_PATH_FROZEN:
        case OUSAC_PATH_SKIPPED:
            break;
        }
    }
    ousac_free(lambda);
    return status;
}

/* Step-weighted squares of a site's output and of its delta over the evaluations that are not full;
 * unweighted where every weight is 0. */
static void weigh_site(const plot_profile *profile, size_t s, double *delta2, double *output2) {
    const ousac_arch *arch = &profile->arch;
    double plain_delta2 = 0, plain_output2 = 0;
    *delta2 = *output2 = 0;
    for (size_t at = 0; at < profile->schedule.step_count * OUSAC_BRANCHES; at++) {
        if (profile->gate[at] <= (int)OUSAC_GATE_FULL)
            continue;
        const double weight = profile->weight[at * arch->group_count + arch->sites[s].group];
        const double dy2 = profile->scalar[OUSAC_SCALAR_DY2][at * arch->site_count + s];
        const double y2 = profile->scalar[OUSAC_SCALAR_Y2][at * arch->site_count + s];
        *delta2 += weight * dy2;
        *output2 += weight * y2;
        plain_delta2 += dy2;
        plain_output2 += y2;
    }
    if (*output2 <= 0) {
        *delta2 = plain_delta2;
        *output2 = plain_output2;
    }
}

static const char *module_state(const ousac_arch *arch, size_t m, const ousac_ranks *ranks) {
    const ousac_module *module = &arch->modules[m];
    if (!ousac_cost_module_live(arch, m, ranks))
        return "reused";
    for (size_t s = module->first_site; s < module->first_site + module->site_count; s++)
        if (ousac_cost_path(arch, s, ranks) != OUSAC_PATH_DENSE)
            return "corrected";
    return "exact";
}

static ousac_status add_errors(table *t, size_t index, const plot_bundle *bundle, double *most,
                               ousac_error *error) {
    const ousac_arch *arch = &bundle->arch;
    const ousac_ranks ranks = ousac_plan_ranks(bundle->plan);
    double *energy = ousac_malloc(arch->site_count, sizeof *energy);
    double *fraction = ousac_malloc(arch->site_count, sizeof *fraction);
    ousac_status status = OUSAC_STATUS_OK;

    if (energy == NULL || fraction == NULL) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "%s: no memory for %zu sites", bundle->path,
                            arch->site_count);
        goto done;
    }
    status = energies_left(bundle, energy, fraction, error);
    for (size_t m = 0; !status && m < arch->module_count; m++) {
        const ousac_module *module = &arch->modules[m];
        double all = 0, left = 0, before2 = 0, after2 = 0, output2 = 0;
        for (size_t s = module->first_site; s < module->first_site + module->site_count; s++) {
            all += energy[s];
            left += energy[s] * fraction[s];
            if (bundle->profile != NULL) {
                double delta2 = 0, y2 = 0;
                weigh_site(bundle->profile, s, &delta2, &y2);
                before2 += delta2;
                after2 += delta2 * fraction[s];
                output2 += y2;
            }
        }
        if (bundle->provenance.of_weights)
            after2 = left = NAN; /* what the ranks leave of the deltas is not known */
        const double before = output2 > 0 ? sqrt(before2 / output2) : NAN;
        table_size(t, index);
        table_text(t, bundle->label);
        table_text(t, bundle->plan->name);
        table_size(t, module->block);
        table_text(t, module->name);
        table_text(t, tables_kind(module->name));
        table_text(t, module_state(arch, m, &ranks));
        table_real(t, before);
        table_real(t, output2 > 0 ? sqrt(after2 / output2) : NAN);
        table_real(t, all > 0 ? sqrt(left / all) : NAN);
        table_end_row(t);
        *most = all > *most ? all : *most;
    }
done:
    ousac_free(energy);
    ousac_free(fraction);
    return status;
}

ousac_status tables_error(table *t, const plot_inputs *inputs, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    double most = 0;
    table_begin(t, "error", "bundle label plan block module kind state reuse calibrated share_left");
    t->nothing = inputs->bundle_count == 0 ? "no bundle was given" : "the bundle holds no plan";
    for (size_t i = 0; !status && i < inputs->bundle_count; i++)
        if (inputs->bundle[i].plan != NULL) {
            t->nothing = NULL;
            status = add_errors(t, i, &inputs->bundle[i], &most, error);
        }
    if (t->nothing == NULL && most <= 0)
        t->nothing = "every delta is zero: the schedule has no cached evaluation, or nothing changes in one";
    return status ? status : table_check(t, error);
}

/* ---- ranks ---- */

static const char *path_name(ousac_path path) {
    static const char *const names[] = {"frozen", "low_rank", "dense", "skipped"};
    return names[path];
}

/* Site kinds in the order in which they first occur are the columns of the plot. */
static size_t kind_index(const ousac_arch *arch, size_t site) {
    size_t index = 0;
    for (size_t s = 0; s < arch->site_count; s++) {
        const char *kind = tables_kind(arch->sites[s].name);
        size_t first = 0;
        while (strcmp(tables_kind(arch->sites[first].name), kind) != 0)
            first++;
        if (first != s)
            continue;
        if (strcmp(tables_kind(arch->sites[site].name), kind) == 0)
            return index;
        index++;
    }
    return index;
}

static void add_ranks(table *t, const ousac_arch *arch, size_t index, const char *label, const size_t *rank) {
    const ousac_ranks ranks = {.rank = rank, .dense_fallback = 1};
    for (size_t s = 0; s < arch->site_count; s++) {
        const ousac_site *site = &arch->sites[s];
        table_size(t, index);
        table_text(t, label);
        table_size(t, site->block);
        table_size(t, kind_index(arch, s));
        table_text(t, tables_kind(site->name));
        table_text(t, site->name);
        table_size(t, rank[s]);
        table_text(t, path_name(ousac_cost_path(arch, s, &ranks)));
        table_size(t, ousac_cost_dense_rank(site));
        table_size(t, site->m);
        table_size(t, site->n);
        table_end_row(t);
    }
}

ousac_status tables_ranks(table *t, const plot_inputs *inputs, ousac_error *error) {
    const ousac_arch *arch = plot_inputs_arch(inputs);
    const ousac_plan *plan = plot_inputs_plan(inputs);
    ousac_allocation uniform = {0};
    char label[2 * OUSAC_NAME_BYTES + 16];

    table_begin(t, "ranks", "plan label block column kind site rank path dense_rank m n");
    if (arch == NULL || plan == NULL) {
        t->nothing = arch == NULL ? "no bundle or profile was given" : "no plan was given";
        return table_check(t, error);
    }
    const ousac_ranks ranks = ousac_plan_ranks(plan);
    (void)snprintf(label, sizeof label, "plan %s (%s)", plan->name, plan->method);
    add_ranks(t, arch, 0, label, plan->rank);
    const ousac_status status =
        ousac_allocate_uniform(arch, NULL, ousac_cost_cached(arch, &ranks), &uniform, error);
    if (!status)
        add_ranks(t, arch, 1, "uniform at the same MACs", uniform.rank);
    ousac_allocation_free(&uniform);
    return status ? status : table_check(t, error);
}

/* ---- spectra ---- */

/* Every rank up to 16, then steps of a twelfth: enough for a smooth line at any size. */
static size_t next_rank(size_t rank, size_t kept) {
    const size_t step = rank < 16 ? 1 : rank / 12 + 1;
    return rank < kept && rank + step > kept ? kept : rank + step;
}

ousac_status tables_spectra(table *t, const plot_bundle *bundle, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    double *lambda = NULL, most = 0;

    table_begin(t, "spectra", "column kind block site rank share_left kept dense_rank");
    if (bundle == NULL) {
        t->nothing = "no bundle was given";
        return table_check(t, error);
    }
    const ousac_arch *arch = &bundle->arch;
    lambda = ousac_malloc(largest_spectrum(arch), sizeof *lambda);
    if (lambda == NULL)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "%s: no memory for a spectrum", bundle->path);
    for (size_t s = 0; !status && s < arch->site_count; s++) {
        const ousac_site *site = &arch->sites[s];
        const size_t count = spectrum_size(site), column = kind_index(arch, s);
        const size_t kept = bundle->plan != NULL ? bundle->plan->rank[s] : SIZE_MAX;
        status = plot_bundle_curve(bundle, s, lambda, error);
        if (status)
            break;
        const double all = ousac_spectrum_tail(lambda, count, 0);
        most = all > most ? all : most;
        for (size_t rank = 0; rank <= count; rank = next_rank(rank, kept)) {
            const double tail = ousac_spectrum_tail(lambda, count, rank);
            table_size(t, column);
            table_text(t, tables_kind(site->name));
            table_size(t, site->block);
            table_text(t, site->name);
            table_size(t, rank);
            table_real(t, all > 0 ? sqrt(tail / all) : NAN);
            table_size(t, rank == kept);
            table_size(t, ousac_cost_dense_rank(site));
            table_end_row(t);
            if (tail <= 0 && (rank >= kept || kept > count))
                break; /* the rest is zero */
        }
    }
    if (most <= 0)
        t->nothing = "every spectrum is zero: no cached evaluation made a delta";
    ousac_free(lambda);
    return status ? status : table_check(t, error);
}

ousac_status tables_choose_site(const plot_bundle *bundle, const char *name, size_t *site,
                                ousac_error *error) {
    const ousac_arch *arch = &bundle->arch;
    double *energy = NULL, *fraction = NULL;
    ousac_status status = OUSAC_STATUS_OK;

    *site = 0;
    if (name != NULL) {
        *site = ousac_arch_find_site(arch, name);
        return *site != SIZE_MAX
                   ? OUSAC_STATUS_OK
                   : OUSAC_FAIL(error, OUSAC_STATUS_USAGE, "--site %s: %s has no such site; its first is %s",
                                name, bundle->path, arch->site_count > 0 ? arch->sites[0].name : "none");
    }
    if (bundle->plan == NULL)
        return OUSAC_STATUS_OK;
    energy = ousac_malloc(arch->site_count, sizeof *energy);
    fraction = ousac_malloc(arch->site_count, sizeof *fraction);
    if (energy == NULL || fraction == NULL)
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "%s: no memory for %zu sites", bundle->path,
                            arch->site_count);
    else
        status = energies_left(bundle, energy, fraction, error);
    for (size_t s = 0; !status && s < arch->site_count; s++)
        if ((energy[s] > 0) > (energy[*site] > 0) || (energy[s] > 0 && fraction[s] > fraction[*site]))
            *site = s;
    ousac_free(energy);
    ousac_free(fraction);
    return status;
}

ousac_status tables_spectrum(table *t, const plot_bundle *bundle, size_t site_index, ousac_error *error) {
    double *lambda = NULL;

    table_begin(t, "spectrum", "site rank direction energy_left share_left kept dense_rank");
    if (bundle == NULL) {
        t->nothing = "no bundle was given";
        return table_check(t, error);
    }
    const ousac_site *site = &bundle->arch.sites[site_index];
    const size_t count = spectrum_size(site);
    const size_t kept = bundle->plan != NULL ? bundle->plan->rank[site_index] : SIZE_MAX;
    lambda = ousac_malloc(count, sizeof *lambda);
    if (lambda == NULL)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "%s: no memory for a spectrum", bundle->path);
    const ousac_status status = plot_bundle_curve(bundle, site_index, lambda, error);
    const double all = status ? 0 : ousac_spectrum_tail(lambda, count, 0);
    for (size_t rank = 0; !status && rank <= count; rank++) {
        const double tail = ousac_spectrum_tail(lambda, count, rank);
        table_text(t, site->name);
        table_size(t, rank);
        table_real(t, rank > 0 && all > 0 ? lambda[rank - 1] / all : NAN);
        table_real(t, all > 0 ? tail / all : NAN);
        table_real(t, all > 0 ? sqrt(tail / all) : NAN);
        table_size(t, rank == kept);
        table_size(t, ousac_cost_dense_rank(site));
        table_end_row(t);
    }
    if (!status && all <= 0)
        t->nothing = "no cached evaluation made a delta at this site";
    ousac_free(lambda);
    return status ? status : table_check(t, error);
}

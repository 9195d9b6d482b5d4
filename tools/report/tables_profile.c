/* Tables of a schedule and of the deltas that it makes. */
#include "tools/report/tables.h"

#include "formats/memory.h"

#include <math.h>
#include <string.h>

const char *tables_kind(const char *name) {
    for (const char *dot = strchr(name, '.'); dot != NULL; dot = strchr(dot + 1, '.')) {
        const size_t digits = strspn(dot + 1, "0123456789");
        if (digits > 0 && dot[1 + digits] == '.')
            return dot + 2 + digits;
    }
    return name;
}

ousac_status tables_schedule(table *t, const ousac_schedule *schedule, ousac_error *error) {
    ousac_status status = OUSAC_STATUS_OK;
    int *gate = NULL, undecided = 0;

    table_begin(t, "schedule",
                "step timestep mode scale guided cond uncond transition hold k m c d guidance");
    if (schedule == NULL) {
        t->nothing = "no schedule was given";
        return table_check(t, error);
    }
    for (size_t i = 0; i < schedule->step_count; i++)
        for (int branch = 0; branch < OUSAC_BRANCHES; branch++)
            undecided |= ousac_mode_evaluates(schedule->steps[i].mode, branch) &&
                         schedule->steps[i].gate[branch] == OUSAC_GATE_AUTO;
    gate = ousac_malloc(schedule->step_count * OUSAC_BRANCHES, sizeof *gate);
    if (gate == NULL)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for %zu steps", schedule->step_count);
    if (!undecided)
        status = ousac_schedule_effective_gates(schedule, gate, error);
    for (size_t i = 0; !status && i < schedule->step_count; i++) {
        const ousac_step *step = &schedule->steps[i];
        table_size(t, i);
        table_real(t, step->timestep);
        table_text(t, ousac_mode_name(step->mode));
        table_real(t, step->scale);
        table_size(t, step->mode == OUSAC_MODE_CFG);
        for (int branch = 0; branch < OUSAC_BRANCHES; branch++) {
            const int asked = ousac_mode_evaluates(step->mode, branch) ? (int)step->gate[branch] : -1;
            const int is = undecided ? asked : gate[i * OUSAC_BRANCHES + (size_t)branch];
            table_real(t, is < 0 ? NAN : (double)is);
        }
        table_size(t, i > 0 && step->mode != step[-1].mode);
        for (int k = 0; k < OUSAC_COEFFICIENTS; k++)
            table_real(t, schedule->fitted ? schedule->fitted[i].value[k] : 0);
        table_real(t, step->tells ? step->guidance : NAN);
        table_end_row(t);
    }
    ousac_free(gate);
    return status ? status : table_check(t, error);
}

ousac_status tables_delta(table *t, const plot_profile *profile, ousac_error *error) {
    double most = 0;
    size_t seen = 0;

    table_begin(t, "delta", "branch step row block module kind gate age relative_delta delta2 output2");
    if (profile == NULL) {
        t->nothing = "no profile was given";
        return table_check(t, error);
    }
    const ousac_arch *arch = &profile->arch;
    for (size_t branch = 0; branch < OUSAC_BRANCHES; branch++) {
        int evaluated = 0;
        for (size_t i = 0; i < profile->schedule.step_count; i++)
            evaluated |= profile->gate[i * OUSAC_BRANCHES + branch] >= 0;
        for (size_t i = 0; evaluated && i < profile->schedule.step_count; i++) {
            const size_t at = i * OUSAC_BRANCHES + branch;
            for (size_t m = 0; m < arch->module_count; m++) {
                const double output2 = profile->scalar[OUSAC_SCALAR_MODULE2][at * arch->module_count + m];
                const double delta2 = profile->scalar[OUSAC_SCALAR_DMODULE2][at * arch->module_count + m];
                const int known = profile->gate[at] >= 0 && profile->age[at] > 0;
                const double relative = !known ? NAN : delta2 == 0 ? 0 : sqrt(delta2 / output2);
                table_text(t, ousac_branch_name((int)branch));
                table_size(t, i);
                table_size(t, m);
                table_size(t, arch->modules[m].block);
                table_text(t, arch->modules[m].name);
                table_text(t, tables_kind(arch->modules[m].name));
                table_real(t, profile->gate[at] < 0 ? NAN : (double)profile->gate[at]);
                table_real(t, known ? (double)profile->age[at] : NAN);
                table_real(t, relative);
                table_real(t, known ? delta2 : NAN);
                table_real(t, profile->gate[at] < 0 ? NAN : output2);
                table_end_row(t);
                if (known && isfinite(relative)) {
                    seen++;
                    most = relative > most ? relative : most;
                }
            }
        }
    }
    if (seen == 0)
        t->nothing = "no branch is evaluated again after its first full evaluation";
    else if (most <= 0)
        t->nothing = "every delta is zero";
    return table_check(t, error);
}

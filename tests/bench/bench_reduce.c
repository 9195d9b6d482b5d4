/* What adding the profiles of the ranks of an MPI job costs, on profiles of DiT-S shapes (arXiv 2212.09748):
 *
 *     mpirun -n P bench_reduce
 *
 * The sums are checked before they are timed. Rank 0 prints JSON: bytes of a profile's sums, and the least
 * and the median of the times.
 */
#include "formats/memory.h"
#include "tools/cli/cli.h"
#include "tools/mpi/jobs.h"
#include "tools/mpi/link.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { REPEATS = 9, BLOCKS = 12, TOKENS = 256, WIDTH = 384 };

static int compare(const void *left, const void *right) {
    const double a = *(const double *)left, b = *(const double *)right;
    return (a > b) - (a < b);
}

static void fill(ousac_profile *profile) {
    for (size_t i = 0; i < ousac_profile_sum_count(profile); i++) {
        size_t count = 0;
        double *sum = ousac_profile_sum(profile, i, &count);
        for (size_t j = 0; j < count; j++)
            sum[j] = (double)(link_rank() + 1);
    }
}

/* Whole numbers of this size add up without rounding, in whatever order. */
static int is_sum(const ousac_profile *profile) {
    const double expected = (double)(link_ranks() * (link_ranks() + 1) / 2);
    for (size_t i = 0; i < ousac_profile_sum_count(profile); i++) {
        size_t count = 0;
        const double *sum = ousac_profile_sum(profile, i, &count);
        for (size_t j = 0; j < count; j++)
            if (sum[j] != expected)
                return 0;
    }
    return 1;
}

/* Every rank hears from rank 0, so that all begin together. */
static void meet(void) {
    wire message = {0};
    wire_put_u64(&message, 1);
    if (link_rank() == 0)
        link_announce(&message);
    else
        link_next_job(&message);
    wire_free(&message);
}

static ousac_status measure(ousac_error *error) {
    ousac_arch arch;
    ousac_profile *profile = NULL;
    ousac_step step = {10, OUSAC_MODE_COND, 1, {OUSAC_GATE_FULL, OUSAC_GATE_FULL}};
    const ousac_schedule schedule = {.name = "one", .step_count = 1, .steps = &step};
    ousac_profile_identity identity = {.micro_batch = 1, .tokens_used = 1, .segments = 1};
    double times[REPEATS];
    size_t bytes = 0;
    memset(identity.model_digest, 'a', sizeof identity.model_digest - 1);
    ousac_status status = ousac_arch_create_dit(&arch, BLOCKS, TOKENS, WIDTH, (size_t)4 * WIDTH, error);
    if (status)
        return status;
    status = ousac_profile_create(&profile, &arch, &schedule, &identity, NULL, 1, error);
    for (int i = 0; i < REPEATS && !status; i++) {
        fill(profile);
        meet();
        const double start = ousac_clock_s();
        job_reduce(profile);
        times[i] = ousac_clock_s() - start;
        if (link_rank() == 0 && !is_sum(profile))
            status = OUSAC_FAIL(error, OUSAC_STATUS_INTERNAL, "the ranks' profiles do not add up");
    }
    if (!status && link_rank() == 0) {
        for (size_t i = 0; i < ousac_profile_sum_count(profile); i++) {
            size_t count = 0;
            (void)ousac_profile_sum(profile, i, &count);
            bytes += count * sizeof(double);
        }
        qsort(times, REPEATS, sizeof *times, compare);
        printf("{\"ranks\": %zu, \"bytes\": %zu, \"least_s\": %.6f, \"median_s\": %.6f}\n", link_ranks(),
               bytes, times[0], times[REPEATS / 2]);
    }
    ousac_profile_free(profile);
    ousac_arch_free(&arch);
    return status;
}

int main(int argc, char **argv) {
    ousac_error error = {0};
    ousac_status status = link_start(&argc, &argv, &error);
    if (!status)
        status = measure(&error);
    if (status)
        link_abort(error.message);
    link_end();
    return cli_exit_code(status);
}

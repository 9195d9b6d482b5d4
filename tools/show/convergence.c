#include "tools/cli/print.h"
#include "tools/show/show.h"

#include <inttypes.h>
#include <stdio.h>

void convergence_print(const ousac_record_convergence *found) {
    cli_printf("%8s %22s %18s %14s\n", "samples", "excess of the factors", "95 % upper limit", "worst layer");
    for (size_t i = 0; i < found->rounds; i++) {
        const ousac_record_round *round = &found->round[i];
        cli_printf("%8" PRIu64 " %20.2f %% %16.2f %% %12.2f %% (%s)\n", round->samples, 100 * round->excess,
                   100 * round->upper, 100 * round->worst, round->worst_site);
    }
    cli_printf("%s at the tolerance, %g %%, of what uniform ranks at a step of %.2f %% leave\n",
               found->converged ? "converged" : "NOT converged: out of samples, and not",
               100 * found->tolerance, 100 * found->budget_step);
}

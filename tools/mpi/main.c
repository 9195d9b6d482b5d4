/* `ousac` as an MPI job: rank 0 runs the command, the other ranks share its work. */
#include "tools/cli/session.h"
#include "tools/cmd/commands.h"
#include "tools/mpi/jobs.h"
#include "tools/mpi/link.h"
#include "tools/mpi/team.h"
#include "tools/mpi/worker.h"

#include <stdio.h>

int main(int argc, char **argv) {
    ousac_error error = {0};
    wire job = {0};
    int code = EXIT_OK;
    if (link_start(&argc, &argv, &error)) {
        (void)fprintf(stderr, "ousac-mpi: %s\n", error.message);
        return cli_exit_code(error.status);
    }
    if (link_rank() > 0) {
        cli_catch_signals();
        code = worker_serve();
    } else {
        cli_set_workers(team_workers());
        code = ousac_main(argc, argv);
        wire_put_u64(&job, JOB_END);
        link_announce(&job);
        wire_free(&job);
    }
    link_end();
    return code;
}

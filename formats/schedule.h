/* The schedule: per denoising step its timestep, branches, guidance scale and gates, always explicit.
 * File format and canonical digest: formats/SCHEDULE.md. Knows nothing of models or costs.
 */
#ifndef OUSAC_SCHEDULE_H
#define OUSAC_SCHEDULE_H

#include "formats/sha256.h"
#include "formats/status.h"

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

enum {
    OUSAC_SCHEDULE_STEPS_MAX = 100000,
    OUSAC_SCHEDULE_TRAIN_STEPS_MAX = 1000000000,
    OUSAC_SCHEDULE_NAME_BYTES = 128,
    OUSAC_SCHEDULE_TEXT_BYTES_MAX = 64 << 20 /* of a file */
};

typedef enum ousac_mode {
    OUSAC_MODE_CFG = 0,   /* both branches, eps = eps_u + scale (eps_c - eps_u) */
    OUSAC_MODE_COND = 1,  /* conditional branch only */
    OUSAC_MODE_UNCOND = 2 /* unconditional branch only */
} ousac_mode;

typedef enum ousac_gate {
    OUSAC_GATE_FULL = 0,   /* every linear exact; its values are cached */
    OUSAC_GATE_CACHED = 1, /* increment-calibrated from the branch's last full evaluation */
    OUSAC_GATE_REUSE = 2,  /* module outputs of the branch's last full evaluation, untouched */
    /* module outputs along the line through the branch's last two full evaluations, as first-order forecasts of
     * features are made (TaylorSeer, arXiv 2503.06923) */
    OUSAC_GATE_EXTRAPOLATE = 3,
    OUSAC_GATE_AUTO = 4 /* left to the plan */
} ousac_gate;
enum { OUSAC_GATES_RUN = OUSAC_GATE_AUTO }; /* gates that an evaluation may run with, from 0 */

enum { OUSAC_BRANCH_COND = 0, OUSAC_BRANCH_UNCOND = 1, OUSAC_BRANCHES = 2 };

typedef enum ousac_solver {
    OUSAC_SOLVER_DDIM = 0,      /* deterministic DDIM, eta = 0 (arXiv 2010.02502) */
    OUSAC_SOLVER_DPMPP_2M = 1,  /* DPM-Solver++, multistep, second order (arXiv 2211.01095) */
    OUSAC_SOLVER_FLOW_EULER = 2 /* Euler's method along the straight lines of a flow (arXiv 2210.02747) */
} ousac_solver;

typedef struct ousac_step {
    double timestep;
    ousac_mode mode;
    double scale;                    /* w; exactly 1 where the mode is not CFG */
    ousac_gate gate[OUSAC_BRANCHES]; /* of a branch that the mode does not evaluate: ignored */
    int tells;                       /* 1: a guidance-distilled model is told `guidance` in either branch */
    double guidance;                 /* before what its inputs say; 0 where `tells` is 0 */
} ousac_step;

/* What is added to a step of the textbook: with e the guided prediction, e' and e'' those of the two steps
 * before, x' = a (1 + k) x + b (1 + m) e + c (e - e') + d (e' - e''). All 0: the textbook's step. */
typedef enum ousac_coefficient {
    OUSAC_COEFFICIENT_HOLD = 0,    /* of the last guided step's e_c - e_u, added to e; 0 where mode is CFG */
    OUSAC_COEFFICIENT_STATE = 1,   /* k */
    OUSAC_COEFFICIENT_GAIN = 2,    /* m */
    OUSAC_COEFFICIENT_CHANGE = 3,  /* c */
    OUSAC_COEFFICIENT_EARLIER = 4, /* d */
    OUSAC_COEFFICIENTS = 5
} ousac_coefficient;

typedef struct ousac_fitted {
    double value[OUSAC_COEFFICIENTS];
} ousac_fitted;

typedef struct ousac_schedule {
    char name[OUSAC_SCHEDULE_NAME_BYTES];
    char file
        [OUSAC_SCHEDULE_NAME_BYTES]; /* the end of the path that it was loaded from; "" for none; no part of it */
    ousac_solver solver;
    size_t step_count;
    ousac_step *steps;    /* step_count, owned: a block of ousac_malloc */
    ousac_fitted *fitted; /* step_count, owned likewise; NULL: the textbook's, as all 0 is */
} ousac_schedule;

const char *ousac_mode_name(ousac_mode mode);       /* "cfg", "cond", "uncond" */
const char *ousac_gate_name(ousac_gate gate);       /* "full", "cached", "reuse", "extrapolate", "auto" */
const char *ousac_solver_name(ousac_solver solver); /* "ddim", "dpmpp-2m", "flow-euler" */
const char *ousac_branch_name(int branch);          /* "cond", "uncond" */
/* "hold", "k", "m", "c", "d" */
const char *ousac_coefficient_name(ousac_coefficient coefficient);
/* The reverse; return 0, or -1 for an unknown name. */
int ousac_mode_parse(ousac_mode *mode, const char *name);
int ousac_gate_parse(ousac_gate *gate, const char *name);
int ousac_solver_parse(ousac_solver *solver, const char *name);

/* Whether a step of this mode evaluates the branch. */
int ousac_mode_evaluates(ousac_mode mode, int branch);

/* Sets `file`, of a schedule that came from the file `path` or stands in it. */
void ousac_schedule_set_file(ousac_schedule *schedule, const char *path);
/* What messages call it: its name, else its file, else "without a name". */
const char *ousac_schedule_called(const ousac_schedule *schedule);

/* Parses and validates. Errors: IO; FORMAT naming file and step: not JSON, an unknown, missing or repeated
 * key, unknown mode or gate, a non-finite number, step count other than `step_count`, no steps, timesteps not
 * strictly falling, a scale beside a mode that has none, guidance in a version before 3, a gate "extrapolate" in
 * one before 4; UNSUPPORTED for another version. Steps are counted from 0. On failure the struct is zeroed. Free
 * with ousac_schedule_free. */
ousac_status ousac_schedule_load(ousac_schedule *schedule, const char *path, ousac_error *error);
/* The same from text of `size` bytes (need not be NUL-terminated); `name` stands for the path in messages. */
ousac_status ousac_schedule_parse(ousac_schedule *schedule, const char *text, size_t size, const char *name,
                                  ousac_error *error);
/* The file's text, pretty-printed, deterministic; ousac_free. Parsing it gives the same schedule and digest.
 * FORMAT where the schedule is not valid. */
ousac_status ousac_schedule_print(const ousac_schedule *schedule, char **text, ousac_error *error);
ousac_status ousac_schedule_save(const ousac_schedule *schedule, const char *path, ousac_error *error);
/* Releases steps and coefficients and zeroes the struct. */
void ousac_schedule_free(ousac_schedule *schedule);
ousac_status ousac_schedule_copy(ousac_schedule *target, const ousac_schedule *source, ousac_error *error);

/* 1 where some coefficient is not 0: a file of version 2 at least. */
int ousac_schedule_is_fitted(const ousac_schedule *schedule);
/* 1 where some step says what the model is told: a file of version 3. */
int ousac_schedule_tells(const ousac_schedule *schedule);
/* 1 where an evaluated branch has that gate at some step. */
int ousac_schedule_has_gate(const ousac_schedule *schedule, ousac_gate gate);
/* 1 where no evaluated branch has a gate `cached` or `auto`: the schedule is all that a runtime needs. */
int ousac_schedule_needs_no_factors(const ousac_schedule *schedule);
/* Every gate `from` becomes `to`. */
void ousac_schedule_replace_gate(ousac_schedule *schedule, ousac_gate from, ousac_gate to);
/* 1 where both steps tell the model the same, or nothing. */
int ousac_step_tells_alike(const ousac_step *a, const ousac_step *b);
/* Makes room for coefficients, all 0, where there is none. */
ousac_status ousac_schedule_make_fitted(ousac_schedule *schedule, ousac_error *error);

/* What ousac_schedule_load checks, for a schedule built in memory. `name` is used in messages. */
ousac_status ousac_schedule_validate(const ousac_schedule *schedule, const char *name, ousac_error *error);

/* SHA-256 of the canonical form of a valid schedule: solver, and every step's timestep, mode, scale, gates of
 * the branches that it evaluates and, where any is not 0, coefficients, and, where any is stated, guidance. The name is
 * not part. */
void ousac_schedule_digest(const ousac_schedule *schedule, char digest[OUSAC_DIGEST_CHARS]);

/* The gates that really run, written to effective[step * OUSAC_BRANCHES + branch]; -1 where the branch is not
 * evaluated. A branch with no full evaluation yet runs full, and EXTRAPOLATE before its second one is REUSE. USAGE
 * where a gate is AUTO. */
ousac_status ousac_schedule_effective_gates(const ousac_schedule *schedule, int *effective,
                                            ousac_error *error);

/* How to lay out a schedule from a few numbers, as diffusers' scheduler of the solver does. Rounding is to nearest,
 * ties to even; one step of LINSPACE is at train_steps - 1. `points` is steps; of dpmpp-2m it is one more, whose last is
 * left out, but for TRAILING. flow-euler has LINSPACE alone, and that is train_steps (1 - i / steps), unrounded. */
typedef enum ousac_spacing {
    OUSAC_SPACING_LINSPACE = 0, /* round(i-th of `points` even in [train_steps - 1, 0]) */
    OUSAC_SPACING_LEADING = 1,  /* (points - 1 - i) * floor(train_steps / points) */
    OUSAC_SPACING_TRAILING = 2  /* round((steps - i) * train_steps / steps) - 1 */
} ousac_spacing;

/* Timestep `index` of `points`, the largest first, as NumPy makes them, to the last bit; `whole` 0: LINSPACE unrounded.
 * One point of LINSPACE is 0, as linspace(0, train_steps - 1, 1) has it. */
double ousac_spaced_timestep(ousac_spacing spacing, size_t points, size_t train_steps, size_t index,
                             int whole);

typedef struct ousac_schedule_options {
    const char *name;   /* NULL for none */
    size_t steps;       /* S >= 1, at most train_steps */
    size_t train_steps; /* T, for instance 1000; at most OUSAC_SCHEDULE_TRAIN_STEPS_MAX */
    ousac_spacing spacing;
    ousac_mode other_mode;   /* mode of the steps that `scales` leaves at NAN: COND or UNCOND */
    const double *scales;    /* S values: guidance scale of the step, NAN for no guidance there */
    const ousac_gate *gates; /* S values, the same for both branches */
    ousac_solver solver;
} ousac_schedule_options;

/* USAGE where an option is out of range; the struct is then zeroed. */
ousac_status ousac_schedule_build(ousac_schedule *schedule, const ousac_schedule_options *options,
                                  ousac_error *error);

#ifdef __cplusplus
}
#endif
#endif

#include "profile/record/recorder.h"

#include "formats/memory.h"
#include "profile/record/device_sums.h"
#include "profile/record/witness.h"

#include <string.h>

/* One thread's. */
typedef struct worker {
    ousac_witness witness;
    /* the evaluation under way: */
    int branch;
    const float **y; /* per group: where its output was, */
    size_t *ldy;     /* and how it lay */
} worker;

struct ousac_recorder {
    ousac_profile *profile;
    const ousac_backend *backend;
    size_t workers, batch;
    worker *worker;
    ousac_witness_target target; /* of a device's moments: by way of the host, */
    ousac_device_sums *sums;     /* or added up there; else NULL */
    ousac_run_observers observers;
};

static ousac_status begin(void *self, size_t step, int branch, ousac_gate gate, uint64_t first, size_t count,
                          ousac_error *error) {
    worker *w = self;
    (void)gate;
    w->branch = branch;
    memset(w->y, 0, w->witness.profile->arch.group_count * sizeof *w->y);
    return ousac_witness_begin(&w->witness, step, branch, first, count, error);
}

static ousac_status linear(void *self, size_t group, size_t rows, const float *x, size_t ldx, const float *y,
                           size_t ldy, ousac_error *error) {
    worker *w = self;
    ousac_witness *witness = &w->witness;
    const ousac_group *g = &witness->profile->arch.groups[group];
    const ousac_piece input = {.data = x, .ld = ldx};
    ousac_status status = ousac_witness_input(witness, w->branch, group, &input, error);
    for (size_t s = g->first_site; s < g->first_site + g->site_count && !status; s++) {
        const ousac_piece output = {.data = y + witness->column[s], .ld = ldy};
        status = ousac_witness_site(witness, w->branch, s, &output, error);
    }
    if (!status && witness->magnitudes)
        status = ousac_magnitudes_see(witness->magnitudes, w->branch, group, rows, x, ldx, y, ldy, error);
    w->y[group] = y;
    w->ldy[group] = ldy;
    return status;
}

/* Whether a module's output is that of its last linear and nothing else, which has been measured already. */
static int is_site(const worker *w, size_t module, size_t output, const ousac_rows *out) {
    const ousac_arch *arch = &w->witness.profile->arch;
    const size_t site = ousac_witness_output_site(arch, module, output);
    return site != SIZE_MAX && out->data == w->y[arch->sites[site].group] &&
           out->ld == w->ldy[arch->sites[site].group];
}

static ousac_status module(void *self, size_t index, const ousac_rows *out, ousac_error *error) {
    worker *w = self;
    ousac_status status = OUSAC_STATUS_OK;
    for (size_t o = 0; o < w->witness.profile->arch.modules[index].output_count && !status; o++) {
        const ousac_piece piece = {.data = out[o].data, .ld = out[o].ld};
        if (is_site(w, index, o, &out[o]))
            ousac_witness_as_site(&w->witness, w->branch, index, o);
        else
            status = ousac_witness_output(&w->witness, w->branch, index, o, &piece, error);
    }
    return status;
}

static ousac_status end(void *self, ousac_error *error) {
    worker *w = self;
    return ousac_witness_end(&w->witness, w->branch, error);
}

/* Adds the micro-batch's sums to the profile and clears them; the next trajectory starts without references.
 */
static ousac_status collect(void *self, size_t index, uint64_t first, size_t count, ousac_error *error) {
    ousac_recorder *r = self;
    ousac_witness *witness = &r->worker[index].witness;
    return r->sums ? ousac_device_sums_collect(r->sums, witness, first, count, error)
                   : ousac_witness_collect(witness, r->profile, &r->target, first, count, error);
}

static ousac_status settle(void *self, int *whole, ousac_error *error) {
    const ousac_recorder *r = self;
    *whole = 1;
    return r->sums ? ousac_device_sums_fetch(r->sums, whole, error) : OUSAC_STATUS_OK;
}

void ousac_recorder_sum_on_device(ousac_recorder *r) {
    if (!r->backend->host && r->profile->moment && !r->sums)
        r->sums = ousac_device_sums_create(r->profile, r->backend);
}

static ousac_status attach(void *self, size_t index, ousac_observer *observer, ousac_error *error) {
    ousac_recorder *r = self;
    if (index >= r->workers)
        return OUSAC_FAIL(error, OUSAC_STATUS_INTERNAL, "worker %zu of a recorder for %zu", index,
                          r->workers);
    *observer = (ousac_observer){.self = &r->worker[index],
                                 .late = !r->worker[index].witness.magnitudes,
                                 .begin = begin,
                                 .linear = linear,
                                 .module = module,
                                 .end = end};
    return OUSAC_STATUS_OK;
}

/* --- life --- */

size_t ousac_recorder_waiting(const ousac_schedule *schedule, size_t batch, size_t tokens_used) {
    return ousac_witness_waiting(schedule, batch, tokens_used);
}

/* A thread's moments beside the profile's own, where those are not in memory either; else NULL. */
static ousac_status map_moments(const ousac_recorder *r, double ***moment, ousac_error *error) {
    const ousac_profile *p = r->profile;
    const size_t moments = p->identity.segments * p->arch.group_count;
    ousac_status status = OUSAC_STATUS_OK;
    *moment = NULL;
    if (!p->spill || !p->moment || !r->backend->host)
        return OUSAC_STATUS_OK;
    double **mapped = ousac_calloc(moments, sizeof *mapped);
    if (!mapped)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory to record %zu moments", moments);
    for (size_t k = 0; k < moments && !status; k++) {
        void *block = NULL;
        status = ousac_spill_map(
            p->spill, ousac_profile_moment_size(&p->arch.groups[k % p->arch.group_count]) * sizeof(double),
            &block, error);
        mapped[k] = block;
    }
    if (status)
        ousac_free(mapped);
    else
        *moment = mapped;
    return status;
}

void ousac_recorder_free(ousac_recorder *r) {
    if (!r)
        return;
    for (size_t i = 0; r->worker && i < r->workers; i++) {
        ousac_witness_free(&r->worker[i].witness);
        ousac_free(r->worker[i].y);
        ousac_free(r->worker[i].ldy);
    }
    ousac_free(r->worker);
    ousac_device_sums_free(r->sums);
    r->backend->release(r->backend, r->target.one);
    ousac_free(r->target.host);
    ousac_free(r);
}

/* `largest`: doubles of a moment. */
static int create_target(ousac_recorder *r, size_t largest) {
    const ousac_backend *be = r->backend;
    const double one = 1;
    r->target.host = ousac_calloc(largest, sizeof *r->target.host);
    r->target.one = be->alloc(be, 1, sizeof one);
    return r->target.host && r->target.one && !be->upload(be, r->target.one, &one, sizeof one, NULL);
}

ousac_status ousac_recorder_create(ousac_recorder **recorder, ousac_profile *profile,
                                   const ousac_backend *backend, size_t workers, size_t batch,
                                   ousac_error *error) {
    const ousac_arch *arch = &profile->arch;
    size_t largest = 0;
    double **moment = NULL;
    *recorder = NULL;
    ousac_recorder *r = ousac_calloc(1, sizeof *r);
    if (!r)
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for a recorder");
    r->profile = profile;
    r->backend = backend;
    r->workers = workers;
    r->batch = batch;
    r->observers = (ousac_run_observers){r, attach, collect, settle};
    for (size_t g = 0; g < arch->group_count; g++) {
        const size_t size = ousac_profile_moment_size(&arch->groups[g]);
        largest = size > largest ? size : largest;
    }
    r->worker = ousac_calloc(workers, sizeof *r->worker);
    int ok = r->worker && (backend->host || create_target(r, largest));
    for (size_t i = 0; ok && i < workers; i++) {
        const ousac_status status = map_moments(r, &moment, error);
        if (status) {
            ousac_recorder_free(r);
            return status;
        }
        ok = !ousac_witness_create(&r->worker[i].witness, profile, backend, batch, moment, NULL);
        r->worker[i].y = ousac_calloc(arch->group_count, sizeof *r->worker[i].y);
        r->worker[i].ldy = ousac_calloc(arch->group_count, sizeof *r->worker[i].ldy);
        ok = ok && r->worker[i].y && r->worker[i].ldy;
    }
    if (!ok) {
        ousac_recorder_free(r);
        return OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory%s%s to record %zu samples on %zu threads",
                          backend->host ? "" : " on the device ", backend->host ? "" : backend->name, batch,
                          workers);
    }
    *recorder = r;
    return OUSAC_STATUS_OK;
}

const ousac_run_observers *ousac_recorder_observers(ousac_recorder *r) {
    return &r->observers;
}

/* The profile of a synthetic model. Its basis vectors have nothing to do with the model's: what it exercises
 * is sizes, spectra and files.
 */
#include "profile/synth/synth_family.h"

#include "formats/memory.h"
#include "profile/record/profile.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

/* Philox samples of the moments' bases, far above those of the weights. */
#define FIRST_MOMENT_SAMPLE ((uint64_t)1 << 40)

typedef struct source {
    const ousac_synth_options *options;
    const ousac_profile *profile;
    double *lambda; /* (d) */
    double *packed; /* room for one moment */
    uint64_t done;
} source;

enum law_of { LAW_OF_GROUP, LAW_OF_SITE, LAW_OF_MODULE };

/* The law of a group, site or module by its place in its block. */
static size_t law_of(const ousac_synth_shape *shape, enum law_of what, size_t index) {
    const ousac_synth_family *family = shape->family;
    const ousac_synth_map *map = &family->map;
    const size_t blocks = family->first_blocks ? family->first_blocks(shape) : SIZE_MAX;
    size_t count = what == LAW_OF_GROUP ? map->groups : what == LAW_OF_SITE ? map->sites : map->modules;
    if (index / count >= blocks) {
        index -= blocks * count;
        map = &family->later;
        count = what == LAW_OF_GROUP ? map->groups : what == LAW_OF_SITE ? map->sites : map->modules;
    }
    return (what == LAW_OF_GROUP ? map->group : what == LAW_OF_SITE ? map->site : map->module)[index % count];
}

/* The level of a group, site or module, and rows and channels of what it measures. */
static const ousac_synth_level *level_of(const ousac_synth_shape *shape, const ousac_arch *arch,
                                         ousac_scalar scalar, size_t index, double *values) {
    size_t rows = 0, channels = 0, level = 0;
    switch (scalar) {
    case OUSAC_SCALAR_X2:
    case OUSAC_SCALAR_DX2:
        rows = ousac_arch_group_tokens(arch, index);
        channels = arch->sites[arch->groups[index].first_site].n;
        level = law_of(shape, LAW_OF_GROUP, index);
        break;
    case OUSAC_SCALAR_Y2:
    case OUSAC_SCALAR_DY2:
        rows = ousac_arch_site_tokens(arch, index);
        channels = arch->sites[index].m;
        level = OUSAC_SYNTH_GROUPS + law_of(shape, LAW_OF_SITE, index);
        break;
    default:
        rows = ousac_arch_output_tokens(arch, index, 0);
        channels = arch->modules[index].output[0].width;
        level = OUSAC_SYNTH_GROUPS + OUSAC_SYNTH_SITES + law_of(shape, LAW_OF_MODULE, index);
        break;
    }
    *values = (double)rows * (double)channels;
    return &ousac_synth_levels[level];
}

/* Sums of squares of every evaluation by the fitted levels. */
static void fill_scalars(ousac_profile *profile, const ousac_synth_shape *shape, uint64_t samples) {
    const ousac_arch *arch = &profile->arch;
    for (int k = 0; k < OUSAC_SCALAR_COUNT; k++) {
        const ousac_scalar scalar = (ousac_scalar)k;
        const int delta =
            scalar == OUSAC_SCALAR_DX2 || scalar == OUSAC_SCALAR_DY2 || scalar == OUSAC_SCALAR_DMODULE2;
        const size_t width = ousac_profile_scalar_width(arch, scalar);
        for (size_t at = 0; at < profile->schedule.step_count * OUSAC_BRANCHES; at++)
            for (size_t i = 0; i < width; i++) {
                double values = 0;
                const ousac_synth_level *level = level_of(shape, arch, scalar, i, &values);
                const double age = profile->age[at],
                             energy = (double)samples * values * level->rms * level->rms;
                double value = profile->gate[at] < 0 ? 0 : energy;
                if (delta)
                    value *= age < 1 ? 0 : fmin(level->share * pow(age, level->growth), 2);
                profile->scalar[k][at * width + i] = value;
            }
    }
}

/* The trace that a moment has by its steps' energies and weights. */
static double trace_of(const ousac_profile *profile, size_t g) {
    const ousac_group *group = &profile->arch.groups[g];
    const int input = group->side == OUSAC_SIDE_INPUT;
    const size_t groups = profile->arch.group_count, sites = profile->arch.site_count;
    double trace = 0;
    for (size_t at = 0; at < profile->schedule.step_count * OUSAC_BRANCHES; at++)
        if (profile->gate[at] == OUSAC_GATE_CACHED)
            trace += profile->weight[at * groups + g] *
                     (input ? profile->scalar[OUSAC_SCALAR_DX2][at * groups + g]
                            : profile->scalar[OUSAC_SCALAR_DY2][at * sites + group->first_site]);
    return trace;
}

static ousac_status lend(void *self, size_t index, const void **data, ousac_error *error) {
    source *s = self;
    const ousac_synth_options *options = s->options;
    const ousac_group *group = &s->profile->arch.groups[index];
    const double mean = trace_of(s->profile, index) / (double)group->dim;
    if (ousac_stop_asked(options->stop))
        return OUSAC_FAIL(error, OUSAC_STATUS_INTERRUPTED, "interrupted before the moment of %s",
                          group->name);
    ousac_decay_fill(&ousac_synth_moment_laws[law_of(&options->shape, LAW_OF_GROUP, index)], group->dim, 1,
                     s->lambda);
    for (size_t i = 0; i < group->dim; i++)
        s->lambda[i] *= mean;
    const ousac_status status =
        ousac_prescribed_moment(group->dim, s->lambda, options->seed, FIRST_MOMENT_SAMPLE + index,
                                options->threads, s->packed, error);
    *data = s->packed;
    if (options->progress) /* each is made twice */
        options->progress(options->progress_self, ++s->done, 2 * s->profile->arch.group_count);
    return status;
}

/* A profile without moments, with the scalars and, by them, the weights. */
static ousac_status create(ousac_profile **profile, const ousac_synth_options *options,
                           const ousac_schedule *schedule, uint64_t samples, ousac_error *error) {
    const ousac_synth_shape *shape = &options->shape;
    ousac_profile_identity identity = {.micro_batch = 1, .segments = 1};
    ousac_arch arch = {0};
    ousac_profile *pilot = NULL;
    double *weight = NULL;
    size_t cached = 0;
    ousac_status status = shape->family->arch(shape, &arch, error);
    if (!status)
        status = ousac_synth_model_digest(options, identity.model_digest, error);
    identity.seed = options->seed;
    identity.tokens_used = arch.stream[0].tokens;
    if (!status)
        status = ousac_profile_create(&pilot, &arch, schedule, &identity, NULL, 0, error);
    if (!status)
        status = ousac_profile_add_range(pilot, 0, samples, error);
    if (status)
        goto done;
    for (size_t at = 0; at < schedule->step_count * OUSAC_BRANCHES; at++)
        cached += pilot->gate[at] == OUSAC_GATE_CACHED;
    if (cached == 0) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_USAGE,
                            "the schedule has no cached evaluation: there are no deltas to profile");
        goto done;
    }
    weight = ousac_malloc(schedule->step_count * OUSAC_BRANCHES * arch.group_count, sizeof *weight);
    if (!weight) {
        status = OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "no memory for step weights");
        goto done;
    }
    fill_scalars(pilot, shape, samples);
    ousac_profile_step_weights(pilot, weight);
    status = ousac_profile_create(profile, &arch, schedule, &identity, weight, 0, error);
    if (!status)
        status = ousac_profile_add_range(*profile, 0, samples, error);
    if (!status)
        fill_scalars(*profile, shape, samples);
done:
    ousac_free(weight);
    ousac_profile_free(pilot);
    ousac_arch_free(&arch);
    return status;
}

ousac_status ousac_synth_save_profile(const ousac_synth_options *options, const ousac_schedule *schedule,
                                      uint64_t samples, const char *path, ousac_error *error) {
    ousac_profile *profile = NULL;
    ousac_text run = {0};
    source s = {.options = options};
    ousac_status status = create(&profile, options, schedule, samples, error);
    if (status)
        goto done;
    ousac_text_add(&run, "{\"synthetic\":\"%s\",\"seed\":\"%" PRIu64 "\"}", options->shape.preset,
                   options->seed);
    size_t largest = 0;
    for (size_t g = 0; g < profile->arch.group_count; g++)
        largest = profile->arch.groups[g].dim > largest ? profile->arch.groups[g].dim : largest;
    s.profile = profile;
    s.lambda = ousac_malloc(largest, sizeof *s.lambda);
    s.packed = ousac_malloc(largest * (largest + 1) / 2, sizeof *s.packed);
    if (!s.lambda || !s.packed || run.failed) {
        status =
            OUSAC_FAIL(error, OUSAC_STATUS_MEMORY, "%s: no memory for a moment of order %zu", path, largest);
        goto done;
    }
    status = ousac_profile_save_streamed(profile, lend, &s, path, run.data, error);
done:
    ousac_free(s.packed);
    ousac_free(s.lambda);
    ousac_free(run.data);
    ousac_profile_free(profile);
    return status;
}

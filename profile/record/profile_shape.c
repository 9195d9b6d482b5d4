/* What a profile of an architecture holds: the names and sizes of its arrays. */
#include "profile/record/profile_source.h"

size_t ousac_profile_scalar_width(const ousac_arch *arch, ousac_scalar scalar) {
    switch (scalar) {
    case OUSAC_SCALAR_X2:
    case OUSAC_SCALAR_DX2:
        return arch->group_count;
    case OUSAC_SCALAR_Y2:
    case OUSAC_SCALAR_DY2:
        return arch->site_count;
    case OUSAC_SCALAR_MODULE2:
    case OUSAC_SCALAR_DMODULE2:
        return arch->module_count;
    case OUSAC_SCALAR_COUNT:
        break;
    }
    return 0;
}

const char *ousac_scalar_name(ousac_scalar scalar) {
    switch (scalar) {
    case OUSAC_SCALAR_X2:
        return "x2";
    case OUSAC_SCALAR_DX2:
        return "dx2";
    case OUSAC_SCALAR_Y2:
        return "y2";
    case OUSAC_SCALAR_DY2:
        return "dy2";
    case OUSAC_SCALAR_MODULE2:
        return "module2";
    case OUSAC_SCALAR_DMODULE2:
        return "dmodule2";
    case OUSAC_SCALAR_COUNT:
        break;
    }
    return "?";
}

static int is_of_groups(ousac_magnitude magnitude) {
    return magnitude == OUSAC_MAGNITUDE_X || magnitude == OUSAC_MAGNITUDE_ADX;
}

const char *ousac_compute_name(ousac_compute compute) {
    static const char *const names[] = {"f32", "bf16", "bf16+attention", "bf16+unknown", "f16+attention"};
    return (unsigned)compute < sizeof names / sizeof *names ? names[compute] : "?";
}

const char *ousac_magnitude_name(ousac_magnitude magnitude) {
    static const char *const names[OUSAC_MAGNITUDE_COUNT] = {"x", "y", "adx", "ady"};
    return (int)magnitude >= 0 && magnitude < OUSAC_MAGNITUDE_COUNT ? names[magnitude] : "?";
}

size_t ousac_profile_magnitude_parts(const ousac_arch *arch, ousac_magnitude magnitude) {
    return is_of_groups(magnitude) ? arch->group_count : arch->site_count;
}

size_t ousac_profile_magnitude_channels(const ousac_arch *arch, ousac_magnitude magnitude, size_t index) {
    return is_of_groups(magnitude) ? arch->sites[arch->groups[index].first_site].n : arch->sites[index].m;
}

size_t ousac_profile_magnitude_offset(const ousac_arch *arch, ousac_magnitude magnitude, size_t index) {
    size_t offset = 0;
    for (size_t i = 0; i < index; i++)
        offset += ousac_profile_magnitude_channels(arch, magnitude, i);
    return offset;
}

size_t ousac_profile_magnitude_size(const ousac_arch *arch, ousac_magnitude magnitude) {
    return ousac_profile_magnitude_offset(arch, magnitude, ousac_profile_magnitude_parts(arch, magnitude));
}

size_t ousac_profile_moment_size(const ousac_group *group) {
    return group->dim % 2 ? (group->dim + 1) / 2 * group->dim : group->dim / 2 * (group->dim + 1);
}

size_t ousac_profile_steps_size(const ousac_profile *profile, size_t width) {
    return profile->schedule.step_count * OUSAC_BRANCHES * width;
}

size_t ousac_profile_moment_count(const ousac_profile *profile) {
    return profile->identity.segments * profile->arch.group_count;
}

size_t ousac_profile_size_of_moment(const ousac_profile *profile, size_t index) {
    return ousac_profile_moment_size(&profile->arch.groups[index % profile->arch.group_count]);
}

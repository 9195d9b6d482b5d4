#include "tests/support/calib_support.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

uint64_t calib_random(uint64_t *state) {
    uint64_t z = (*state += 0x9E3779B97F4A7C15ULL);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
    return z ^ (z >> 31);
}

double calib_uniform(uint64_t *state) {
    return (double)(calib_random(state) >> 11) / 9007199254740992.0;
}

double calib_normal(uint64_t *state) {
    double sum = -6.0;
    for (int i = 0; i < 12; i++)
        sum += calib_uniform(state);
    return sum;
}

size_t calib_below(uint64_t *state, size_t bound) {
    return (size_t)(calib_random(state) % bound);
}

void calib_fill(uint64_t *state, size_t count, float *x) {
    for (size_t i = 0; i < count; i++)
        x[i] = (float)calib_normal(state);
}

static void rotate(size_t n, double *a, double *vectors, size_t p, size_t q) {
    const double theta = (a[q * n + q] - a[p * n + p]) / (2 * a[p * n + q]);
    const double t = (theta < 0 ? -1.0 : 1.0) / (fabs(theta) + sqrt(theta * theta + 1));
    const double c = 1 / sqrt(t * t + 1), s = t * c;
    for (size_t k = 0; k < n; k++) {
        const double x = a[k * n + p], y = a[k * n + q];
        a[k * n + p] = c * x - s * y;
        a[k * n + q] = s * x + c * y;
    }
    for (size_t k = 0; k < n; k++) {
        const double x = a[p * n + k], y = a[q * n + k];
        a[p * n + k] = c * x - s * y;
        a[q * n + k] = s * x + c * y;
        const double u = vectors[p * n + k], v = vectors[q * n + k];
        vectors[p * n + k] = c * u - s * v;
        vectors[q * n + k] = s * u + c * v;
    }
}

void calib_jacobi(size_t n, double *a, double *values, double *vectors) {
    for (size_t i = 0; i < n * n; i++)
        vectors[i] = i / n == i % n ? 1.0 : 0.0;
    for (int sweep = 0; sweep < 60; sweep++) {
        int rotated = 0;
        for (size_t p = 0; p < n; p++)
            for (size_t q = p + 1; q < n; q++)
                if (fabs(a[p * n + q]) > 1e-18 * sqrt(fabs(a[p * n + p] * a[q * n + q])) &&
                    fabs(a[p * n + q]) > 1e-300) {
                    rotate(n, a, vectors, p, q);
                    rotated = 1;
                }
        if (!rotated)
            break;
    }
    for (size_t i = 0; i < n; i++)
        values[i] = a[i * n + i];
    for (size_t i = 0; i < n; i++)
        for (size_t j = i + 1; j < n; j++)
            if (values[j] > values[i]) {
                const double value = values[i];
                values[i] = values[j];
                values[j] = value;
                for (size_t k = 0; k < n; k++) {
                    const double component = vectors[i * n + k];
                    vectors[i * n + k] = vectors[j * n + k];
                    vectors[j * n + k] = component;
                }
            }
}

void calib_random_arch(ousac_arch *arch, uint64_t *state, size_t modules, size_t stages, size_t most) {
    size_t counts[16][4], sites = 0;
    for (size_t i = 0; i < modules; i++)
        for (size_t j = 0; j < stages; j++)
            sites += counts[i][j] = 1 + calib_below(state, stages == 1 ? 3 : 2);
    if (ousac_arch_create(arch, sites, sites, modules, 0, NULL) != OUSAC_STATUS_OK)
        abort();
    snprintf(arch->family, sizeof arch->family, "random");
    arch->stream_count = 1;
    snprintf(arch->stream[0].name, sizeof arch->stream[0].name, "image");
    arch->stream[0].tokens = 1 + calib_below(state, 3);
    arch->width = most;
    arch->block_count = 1;
    arch->other_macs = calib_below(state, 20);
    size_t s = 0;
    for (size_t i = 0; i < modules; i++) {
        ousac_module *module = &arch->modules[i];
        snprintf(module->name, sizeof module->name, "module%zu", i);
        module->first_site = s;
        module->stage_count = stages;
        module->output_count = 1;
        module->output[0].width = most;
        module->fixed_macs = calib_below(state, 30);
        for (size_t j = 0; j < stages; j++)
            for (size_t k = 0; k < counts[i][j]; k++, s++) {
                ousac_site *site = &arch->sites[s];
                ousac_group *group = &arch->groups[s];
                snprintf(site->name, sizeof site->name, "site%zu", s);
                snprintf(group->name, sizeof group->name, "site%zu", s);
                site->module = i;
                site->group = s;
                site->stage = j;
                site->m = 1 + calib_below(state, most);
                site->n = 1 + calib_below(state, most);
                group->first_site = s;
                group->site_count = 1;
                group->side = site->n <= site->m ? OUSAC_SIDE_INPUT : OUSAC_SIDE_OUTPUT;
                group->dim = site->n <= site->m ? site->n : site->m;
            }
        module->site_count = s - module->first_site;
    }
}

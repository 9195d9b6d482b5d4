#include "profile/synth/synth_law.h"

const ousac_synth_weight_law ousac_synth_weight_laws[OUSAC_SYNTH_KIND_COUNT] = {
    {{0.203, 1.022, -0.295}, 0.823}, /* q */
    {{0.221, 1.047, -0.442}, 0.814}, /* k */
    {{0.173, 1.079, -0.444}, 0.738}, /* v */
    {{0.077, 1.023, -0.055}, 0.981}, /* proj */
    {{0.131, 0.117, 0.375}, 0.715},  /* fc1 */
    {{0.070, 0.106, 0.496}, 1.331},  /* fc2 */
    {{0.811, 0.756, 2.505}, 0.261},  /* modulation */
};

const ousac_decay ousac_synth_moment_laws[OUSAC_SYNTH_GROUPS] = {
    {0.769, 0.115, 3.154}, /* q, k, v */
    {1.132, 0.046, 4.386}, /* proj */
    {0.936, 0.265, 1.749}, /* fc1 */
    {1.068, 0.097, 2.036}, /* fc2 */
};

const ousac_synth_level ousac_synth_levels[OUSAC_SYNTH_LEVELS] = {
    {0.520, 0.00143, 1.489}, /* x of q, k, v */
    {0.210, 0.00436, 1.542}, /* of proj */
    {0.566, 0.00109, 1.528}, /* of fc1 */
    {0.172, 0.00135, 1.503}, /* of fc2 */
    {0.606, 0.00125, 1.564}, /* q */
    {0.625, 0.00129, 1.595}, /* k */
    {0.420, 0.00144, 1.500}, /* v */
    {0.294, 0.00430, 1.542}, /* proj */
    {0.503, 0.00090, 1.536}, /* fc1 */
    {0.476, 0.00078, 1.503}, /* fc2 */
    {0.294, 0.00430, 1.542}, /* the attention's output */
    {0.476, 0.00078, 1.503}, /* the MLP's */
};

const double ousac_synth_modulations[OUSAC_SYNTH_MODULATIONS] = {0.170, 0.467, 0.160, 0.143,
                                                                 0.597, 0.145, 0.293, 0.961};

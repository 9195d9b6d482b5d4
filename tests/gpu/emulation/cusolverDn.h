/* Stands in for cuSOLVER's header of this name in the emulation; see README.md. */
#ifndef OUSAC_EMULATION_CUSOLVER_H
#define OUSAC_EMULATION_CUSOLVER_H

#include <cublas_v2.h>

enum cusolverStatus_t {
    CUSOLVER_STATUS_SUCCESS = 0,
    CUSOLVER_STATUS_ALLOC_FAILED = 2,
    CUSOLVER_STATUS_INVALID_VALUE = 3,
    CUSOLVER_STATUS_EXECUTION_FAILED = 6
};
enum cusolverEigMode_t { CUSOLVER_EIG_MODE_NOVECTOR, CUSOLVER_EIG_MODE_VECTOR };
typedef struct ousac_emulated_solver *cusolverDnHandle_t;
typedef struct ousac_emulated_params *cusolverDnParams_t;

cusolverStatus_t cusolverDnCreate(cusolverDnHandle_t *handle);
cusolverStatus_t cusolverDnDestroy(cusolverDnHandle_t handle);
cusolverStatus_t cusolverDnCreateParams(cusolverDnParams_t *params);
cusolverStatus_t cusolverDnDestroyParams(cusolverDnParams_t params);
cusolverStatus_t cusolverDnSetStream(cusolverDnHandle_t handle, cudaStream_t stream);
cusolverStatus_t cusolverDnXsyevd_bufferSize(cusolverDnHandle_t handle, cusolverDnParams_t params,
                                             cusolverEigMode_t mode, cublasFillMode_t fill, int64_t n,
                                             cudaDataType type_a, const void *a, int64_t lda,
                                             cudaDataType type_w, const void *w, cudaDataType compute,
                                             size_t *device_bytes, size_t *host_bytes);
cusolverStatus_t cusolverDnXsyevd(cusolverDnHandle_t handle, cusolverDnParams_t params,
                                  cusolverEigMode_t mode, cublasFillMode_t fill, int64_t n,
                                  cudaDataType type_a, void *a, int64_t lda, cudaDataType type_w, void *w,
                                  cudaDataType compute, void *device_buffer, size_t device_bytes,
                                  void *host_buffer, size_t host_bytes, int *info);
cusolverStatus_t cusolverDnXsyevBatched_bufferSize(cusolverDnHandle_t handle, cusolverDnParams_t params,
                                                   cusolverEigMode_t mode, cublasFillMode_t fill, int64_t n,
                                                   cudaDataType type_a, const void *a, int64_t lda,
                                                   cudaDataType type_w, const void *w, cudaDataType compute,
                                                   size_t *device_bytes, size_t *host_bytes, int64_t batch);
cusolverStatus_t cusolverDnXsyevBatched(cusolverDnHandle_t handle, cusolverDnParams_t params,
                                        cusolverEigMode_t mode, cublasFillMode_t fill, int64_t n,
                                        cudaDataType type_a, void *a, int64_t lda, cudaDataType type_w,
                                        void *w, cudaDataType compute, void *device_buffer,
                                        size_t device_bytes, void *host_buffer, size_t host_bytes, int *info,
                                        int64_t batch);
#endif

/* What a path of a model stands for: a file of weights, an index of shards, or a folder as diffusers saves it.
 */
#ifndef OUSAC_MODEL_FOLDER_H
#define OUSAC_MODEL_FOLDER_H

#include "formats/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ousac_model_folder {
    char *weights;   /* of the file, or of the index; owned */
    char *config;    /* config.json beside it, which may not be there; owned */
    char *scheduler; /* of a folder: the scheduler's config beside it; NULL where there is none; owned */
    int sharded;     /* 1: `weights` is an index */
} ousac_model_folder;

/* A file is itself. Of a folder with a model_index.json it is the folder `transformer` in it, of any other the weights in
 * it: diffusion_pytorch_model.safetensors or model.safetensors, their indices of shards, and the variants fp16 and bf16
 * where there is no other. IO where a folder holds none of them. Free with ousac_model_folder_free. */
ousac_status ousac_model_folder_find(ousac_model_folder *folder, const char *path, ousac_error *error);
void ousac_model_folder_free(ousac_model_folder *folder);

/* The text of the model's config with the noise levels and the prediction of the scheduler added, where the config says
 * nothing of them: `text` is NULL for no config, and becomes a new block (ousac_free). FORMAT where either is no object. */
ousac_status ousac_model_folder_believe(char **text, const char *config_path, const char *scheduler_path,
                                        ousac_error *error);

#ifdef __cplusplus
}
#endif
#endif

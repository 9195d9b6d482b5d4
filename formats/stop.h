/* A flag by which long work is asked to end, set by a signal handler or another thread and polled by workers.
 */
#ifndef OUSAC_STOP_H
#define OUSAC_STOP_H

#ifdef __cplusplus
extern "C" {
#endif

/* Zero-initialise; touch `asked` through the functions alone: they are atomic, and safe in a signal handler. */
typedef struct ousac_stop {
    int asked;
} ousac_stop;

void ousac_stop_ask(ousac_stop *stop);
int ousac_stop_asked(const ousac_stop *stop); /* 0 for NULL */

#ifdef __cplusplus
}
#endif

#endif

/*
 * What the files of the Node-API layer share. They are the only ones that know Node; they hold no policy. Everything here runs on a
 * JavaScript thread, outside the signal handler. Signals are masked (MASKED) around whatever takes a lock of the engine.
 */
#ifndef PF_BINDING_H
#define PF_BINDING_H

#include "engine.h"

#include <node_api.h>

#define MASKED(statement)            \
  do {                               \
    sigset_t masked_before;          \
    pf_mask_signals(&masked_before); \
    statement;                       \
    pf_restore_signals(&masked_before); \
  } while (0)

/* Up to `count` arguments; those not given are undefined. */
bool pf_args(napi_env env, napi_callback_info info, size_t count, napi_value *args);
uint64_t pf_number(napi_env env, napi_value value);     /* 0 if it is none or negative */
int64_t pf_integer(napi_env env, napi_value value);
bool pf_boolean(napi_env env, napi_value value);
bool pf_is_function(napi_env env, napi_value value);
napi_value pf_from_number(napi_env env, double number);
napi_value pf_from_text(napi_env env, const char *text);
napi_value pf_property(napi_env env, napi_value object, const char *name);
void pf_set(napi_env env, napi_value object, const char *name, napi_value value);
napi_value pf_undefined(napi_env env);
void pf_text(napi_env env, napi_value value, char *out, size_t size);
/* The bytes of a Uint8Array, of shared memory too. Of a detached one: none. */
bool pf_bytes(napi_env env, napi_value value, uint8_t **bytes, size_t *len);
/* Elements of a typed array of this type that has at least `least` of them, else NULL. */
void *pf_elements(napi_env env, napi_value value, napi_typedarray_type wanted, size_t least);
/* A bigint from 0 to 2^64 - 1. */
bool pf_address(napi_env env, napi_value value, uint64_t *out);

/* Throws an Error with code, and errno and syscall where there are. Returns NULL. */
napi_value pf_throw(napi_env env, pf_code_t code, int err, const char *syscall, const char *message);
/* The same with `failure` on it. */
napi_value pf_throw_failure(napi_env env, const pf_failure_t *failure);
napi_value pf_failure_object(napi_env env, const pf_failure_t *failure);
/* What is known of why the page failed. */
void pf_failure_of(pf_region_t *region, uint64_t page, pf_why_t why, pf_failure_t *out);
/* The region an id names, entered; throws CLOSED and returns NULL when it is gone or closed. */
pf_region_t *pf_open_region(napi_env env, napi_value id);

/* The thread holds a region (or no longer); what it still holds when its environment ends is given back then. */
void pf_hold_for(napi_env env, uint64_t id);
void pf_unhold_for(napi_env env, uint64_t id);

typedef struct {
  const char *name;
  napi_callback function;
} pf_export_t;

extern const pf_export_t pf_region_exports[];
extern const pf_export_t pf_load_exports[];
extern const pf_export_t pf_pager_exports[];
extern const pf_export_t pf_uffd_exports[];
extern const pf_export_t pf_mapping_exports[];
extern const pf_export_t pf_process_exports[];
extern const pf_export_t pf_watch_exports[];
extern const pf_export_t pf_guest_exports[];

/* node_api_create_external_sharedarraybuffer, or NULL where the runtime has none. */
typedef napi_status (*pf_create_shared_t)(napi_env env, void *data, size_t len, void (*finalize)(void *data, void *hint), void *hint,
                                          napi_value *result);
pf_create_shared_t pf_create_shared(void);

#endif

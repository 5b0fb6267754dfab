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
/* Throws an Error with a code that is no reason of a page. Returns NULL. */
napi_value pf_throw_code(napi_env env, const char *code, const char *message);
/* Throws an Error for a page that could not be had or written, with `failure` on it. */
napi_value pf_throw_page(napi_env env, const pf_region_t *region, uint64_t page, pf_why_t why);
napi_value pf_failure_object(napi_env env, const pf_failure_t *failure);
/* The region an id names, entered; throws CLOSED and returns NULL when it is gone or closed. */
pf_region_t *pf_open_region(napi_env env, napi_value id);

/* The whole pages inside a range of bytes; the last page of the region is whole when the range reaches the end. False: none. */
bool pf_whole_pages(const pf_region_t *region, uint64_t offset, uint64_t len, uint64_t *first, uint64_t *end);
/* The pages that a range of bytes touches. False: it is empty or not inside the region. */
bool pf_touched_pages(const pf_region_t *region, uint64_t offset, uint64_t len, uint64_t *first, uint64_t *end);

/* The word for JavaScript. */
const char *pf_tracking_name(pf_track_t track);
#define PF_LOST_RUNS 4 /* as many as fit into a line that is read */
/* What is modified: lost if the region ends now. */
typedef struct {
  uint64_t bytes, pages;
  uint64_t first[PF_LOST_RUNS], end[PF_LOST_RUNS]; /* the first runs of those pages */
  uint32_t runs;
} pf_lost_t;
/* Nothing where the kernel cannot say. Takes no memory. */
pf_lost_t pf_modified(pf_region_t *region);
/* The region's memory was collected while it was open: what it had modified is remembered, to be told. */
void pf_note_lost(pf_region_t *region);
/* One line on stderr about what is lost; not twice for a region. NULL: what was remembered of it. */
void pf_report_lost(uint64_t id, const char *name, const pf_lost_t *lost);
/* The same of a region, for what is modified now. */
void pf_report_unflushed(pf_region_t *region);
/* Writes out what is modified, on a thread of our own, and waits a while for it. False: not all of it was written. */
bool pf_flush_now(pf_region_t *region);

/* The thread holds a region (or no longer); what it still holds when its environment ends is given back then. */
void pf_hold_for(napi_env env, uint64_t id);
void pf_unhold_for(napi_env env, uint64_t id);
/* The thread has pinned pages [first, end) of a region, or lets them go. What it still pins when it no longer holds the region, or its environment ends, is unpinned. */
void pf_pin_for(napi_env env, uint64_t id, uint64_t first, uint64_t end);
void pf_unpin_for(napi_env env, uint64_t id, uint64_t first, uint64_t end);
/* Unpins, in a region that may be closed or gone. */
void pf_unpin_by_id(uint64_t id, uint64_t first, uint64_t end);

/* Of memory that memoryHold holds, this is paged. `id` 0: none. */
void pf_memory_paged(uint64_t id, uint8_t *base, size_t len);
/* The environment ends: its JavaScript no longer says when a buffer is gone. */
void pf_memory_thread_ends(napi_env env);

typedef struct {
  const char *name;
  napi_callback function;
} pf_export_t;

extern const pf_export_t pf_region_exports[];
extern const pf_export_t pf_hold_exports[];
extern const pf_export_t pf_memory_exports[];
extern const pf_export_t pf_shared_exports[];
extern const pf_export_t pf_event_exports[];
/* A thread has loaded us: until its environment ends it counts as one that runs JavaScript. */
void pf_events_begin(napi_env env);
extern const pf_export_t pf_load_exports[];
extern const pf_export_t pf_touched_exports[];
extern const pf_export_t pf_write_exports[];
extern const pf_export_t pf_pager_exports[];
extern const pf_export_t pf_uffd_exports[];
extern const pf_export_t pf_mapping_exports[];
extern const pf_export_t pf_process_exports[];
extern const pf_export_t pf_watch_exports[];
extern const pf_export_t pf_guest_exports[];
extern const pf_export_t pf_peer_exports[];

/* node_api_create_external_sharedarraybuffer, or NULL where the runtime has none. */
typedef napi_status (*pf_create_shared_t)(napi_env env, void *data, size_t len, void (*finalize)(void *data, void *hint), void *hint,
                                          napi_value *result);
pf_create_shared_t pf_create_shared(void);

#endif

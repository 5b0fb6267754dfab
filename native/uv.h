/*
 * The few functions of libuv that the Node-API files use, declared by hand because libuv's header does not come with Node-API's. Sizes
 * are asked at run time; names and values are part of libuv's stable ABI.
 */
#ifndef PF_UV_H
#define PF_UV_H

#include <stddef.h>
#include <stdint.h>

typedef struct uv_loop_s uv_loop_t;
typedef struct uv_handle_s {
  void *data; /* the first field of every handle, by libuv's documentation */
} uv_handle_t;
enum { UV_POLL_TYPE = 8, UV_TIMER_TYPE = 13, UV_READABLE_EVENT = 1 };
extern size_t uv_handle_size(int type);
extern const char *uv_handle_type_name(int type);
extern int uv_poll_init(uv_loop_t *loop, uv_handle_t *handle, int fd);
extern int uv_poll_start(uv_handle_t *handle, int events, void (*callback)(uv_handle_t *handle, int status, int events));
extern int uv_timer_init(uv_loop_t *loop, uv_handle_t *handle);
extern int uv_timer_start(uv_handle_t *handle, void (*callback)(uv_handle_t *handle), uint64_t timeout, uint64_t repeat);
extern int uv_timer_stop(uv_handle_t *handle);
extern int uv_poll_stop(uv_handle_t *handle);
extern void uv_ref(uv_handle_t *handle);
extern void uv_unref(uv_handle_t *handle);
extern void uv_close(uv_handle_t *handle, void (*callback)(uv_handle_t *handle));

/* The number of a handle type, by its name: the enum is not part of libuv's ABI promise. binding.c */
int pf_uv_type(const char *name, int guess);

#endif

/*
 * Node-API: descriptors over Unix sockets, pidfds, signalfds, memory of other processes. Any JavaScript thread. Conversions only: what
 * went wrong comes back as a negative errno.
 */
#include "binding.h"
#include "process.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

/* --- conversions --------------------------------------------------------------------------------------------------------------- */

static int fd_of(napi_env env, napi_value value) { return (int)pf_integer(env, value); }

static int32_t *int32s(napi_env env, napi_value value, size_t least) { return pf_elements(env, value, napi_int32_array, least); }

static uint64_t bits_of(napi_env env, napi_value value) {
  uint64_t bits = 0;
  pf_address(env, value, &bits);
  return bits;
}

static napi_value invalid(napi_env env) { return pf_from_number(env, -EINVAL); }

/* A path, whole, or "" where it is too long. */
static void path_of(napi_env env, napi_value value, char out[PF_UNIX_PATH_MAX + 2]) {
  pf_text(env, value, out, PF_UNIX_PATH_MAX + 2);
  if (strlen(out) > PF_UNIX_PATH_MAX) {
    out[0] = '\0';
  }
}

/* --- descriptors ----------------------------------------------------------------------------------------------------------------- */

static napi_value descriptor_close(napi_env env, napi_callback_info info) {
  napi_value args[1];
  pf_args(env, info, 1, args);
  return pf_from_number(env, close(fd_of(env, args[0])) == 0 || errno == EINTR ? 0 : -errno); /* Linux has closed it even then */
}

static napi_value descriptor_duplicate(napi_env env, napi_callback_info info) {
  napi_value args[1];
  pf_args(env, info, 1, args);
  return pf_from_number(env, pf_duplicate(fd_of(env, args[0])));
}

static napi_value descriptor_is_readable(napi_env env, napi_callback_info info) {
  napi_value args[1];
  pf_args(env, info, 1, args);
  return pf_from_number(env, pf_is_readable(fd_of(env, args[0])));
}

/* --- Unix sockets ---------------------------------------------------------------------------------------------------------------- */

static napi_value unix_pair(napi_env env, napi_callback_info info) {
  napi_value args[1];
  pf_args(env, info, 1, args);
  int32_t *out = int32s(env, args[0], 2);
  return out == NULL ? invalid(env) : pf_from_number(env, pf_unix_pair(out));
}

static napi_value unix_connect(napi_env env, napi_callback_info info) {
  napi_value args[1];
  char path[PF_UNIX_PATH_MAX + 2];
  pf_args(env, info, 1, args);
  path_of(env, args[0], path);
  return pf_from_number(env, pf_unix_connect(path));
}

static napi_value unix_listen(napi_env env, napi_callback_info info) {
  napi_value args[4], made[2] = {NULL, NULL};
  char path[PF_UNIX_PATH_MAX + 2];
  uint64_t ids[2] = {0, 0};
  pf_args(env, info, 4, args);
  path_of(env, args[0], path);
  int fd = pf_unix_listen(path, (int)pf_integer(env, args[1]), (int)pf_integer(env, args[2]), ids);
  for (uint32_t i = 0; i < 2 && fd >= 0; i++) {
    napi_create_bigint_uint64(env, ids[i], &made[i]);
    napi_set_element(env, args[3], i, made[i]);
  }
  return pf_from_number(env, fd);
}

static napi_value unix_unlink(napi_env env, napi_callback_info info) {
  napi_value args[3];
  char path[PF_UNIX_PATH_MAX + 2];
  pf_args(env, info, 3, args);
  path_of(env, args[0], path);
  uint64_t made[2] = {bits_of(env, args[1]), bits_of(env, args[2])};
  return pf_from_number(env, pf_unix_unlink(path, made));
}

static napi_value unix_accept(napi_env env, napi_callback_info info) {
  napi_value args[1];
  pf_args(env, info, 1, args);
  return pf_from_number(env, pf_unix_accept(fd_of(env, args[0])));
}

static napi_value unix_kind(napi_env env, napi_callback_info info) {
  napi_value args[1];
  int type = 0;
  bool listening = false;
  pf_args(env, info, 1, args);
  int err = pf_unix_kind(fd_of(env, args[0]), &type, &listening);
  return pf_from_number(env, err != 0 ? err : type | (listening ? 0x100 : 0));
}

static napi_value unix_peer(napi_env env, napi_callback_info info) {
  napi_value args[2];
  int64_t who[3];
  pf_args(env, info, 2, args);
  double *out = pf_elements(env, args[1], napi_float64_array, 3);
  int err = out == NULL ? -EINVAL : pf_unix_peer(fd_of(env, args[0]), who);
  for (int i = 0; err == 0 && i < 3; i++) {
    out[i] = (double)who[i];
  }
  return pf_from_number(env, err);
}

static napi_value unix_peer_pidfd(napi_env env, napi_callback_info info) {
  napi_value args[1];
  pf_args(env, info, 1, args);
  return pf_from_number(env, pf_unix_peer_pidfd(fd_of(env, args[0])));
}

static napi_value unix_send(napi_env env, napi_callback_info info) {
  napi_value args[4];
  uint8_t *bytes;
  size_t len;
  pf_args(env, info, 4, args);
  size_t count = pf_number(env, args[3]);
  int32_t *fds = int32s(env, args[2], count);
  if ((fds == NULL && count > 0) || /* an empty array has no address */
      !pf_bytes(env, args[1], &bytes, &len)) {
    return invalid(env);
  }
  return pf_from_number(env, (double)pf_unix_send(fd_of(env, args[0]), bytes, len, fds, count));
}

static napi_value unix_receive(napi_env env, napi_callback_info info) {
  napi_value args[4];
  uint8_t *bytes;
  size_t len;
  pf_args(env, info, 4, args);
  size_t max = pf_number(env, args[3]);
  int32_t *out = int32s(env, args[2], max + 1);
  if (out == NULL || !pf_bytes(env, args[1], &bytes, &len)) {
    return invalid(env);
  }
  return pf_from_number(env, (double)pf_unix_receive(fd_of(env, args[0]), bytes, len, out + 1, max, out));
}

/* --- processes ------------------------------------------------------------------------------------------------------------------- */

static napi_value pidfd_open(napi_env env, napi_callback_info info) {
  napi_value args[1];
  pf_args(env, info, 1, args);
  return pf_from_number(env, pf_pidfd_open((pid_t)pf_integer(env, args[0])));
}

static napi_value pidfd_signal(napi_env env, napi_callback_info info) {
  napi_value args[2];
  pf_args(env, info, 2, args);
  return pf_from_number(env, pf_pidfd_signal(fd_of(env, args[0]), (int)pf_integer(env, args[1])));
}

static napi_value status_result(napi_env env, napi_value into, int result, const pf_status_t *status) {
  int32_t *out = int32s(env, into, 2);
  if (out == NULL) {
    return invalid(env);
  }
  out[0] = status->code;
  out[1] = status->status;
  return pf_from_number(env, result);
}

static napi_value pidfd_wait(napi_env env, napi_callback_info info) {
  napi_value args[3];
  pf_status_t status = {0};
  pf_args(env, info, 3, args);
  uint64_t what = pf_number(env, args[1]);
  if (what > PF_WAIT_STOPS) {
    return invalid(env);
  }
  int result = pf_pidfd_wait(fd_of(env, args[0]), (int)what, &status);
  return status_result(env, args[2], result, &status);
}

static napi_value pidfd_exit(napi_env env, napi_callback_info info) {
  napi_value args[2];
  pf_status_t status = {0};
  pf_args(env, info, 2, args);
  int result = pf_pidfd_exit(fd_of(env, args[0]), &status);
  return status_result(env, args[1], result, &status);
}

static napi_value process_read(napi_env env, napi_callback_info info) {
  napi_value args[3];
  uint8_t *into;
  size_t len;
  uint64_t address;
  pf_args(env, info, 3, args);
  if (!pf_bytes(env, args[2], &into, &len) || !pf_address(env, args[1], &address)) {
    return invalid(env);
  }
  return pf_from_number(env, (double)pf_process_read((pid_t)pf_integer(env, args[0]), address, into, len));
}

/* --- signals --------------------------------------------------------------------------------------------------------------------- */

#define SIGNAL_FIELDS 5
#define SIGNALS_AT_ONCE 16

static napi_value signals_open(napi_env env, napi_callback_info info) {
  napi_value args[1];
  pf_args(env, info, 1, args);
  return pf_from_number(env, pf_signals_open(bits_of(env, args[0])));
}

static napi_value signals_close(napi_env env, napi_callback_info info) {
  napi_value args[2];
  pf_args(env, info, 2, args);
  return pf_from_number(env, pf_signals_close(fd_of(env, args[0]), bits_of(env, args[1])));
}

static napi_value signals_read(napi_env env, napi_callback_info info) {
  napi_value args[2];
  pf_signal_t signals[SIGNALS_AT_ONCE];
  pf_args(env, info, 2, args);
  int32_t *out = int32s(env, args[1], SIGNAL_FIELDS * SIGNALS_AT_ONCE);
  int count = out == NULL ? -EINVAL : pf_signals_read(fd_of(env, args[0]), signals, SIGNALS_AT_ONCE);
  for (int i = 0; i < count; i++, out += SIGNAL_FIELDS) {
    out[0] = (int32_t)signals[i].number;
    out[1] = signals[i].code;
    out[2] = (int32_t)signals[i].pid;
    out[3] = (int32_t)signals[i].uid;
    out[4] = signals[i].status;
  }
  return pf_from_number(env, count);
}

const pf_export_t pf_process_exports[] = {
    {"descriptorClose", descriptor_close},
    {"descriptorDuplicate", descriptor_duplicate},
    {"descriptorIsReadable", descriptor_is_readable},
    {"unixPair", unix_pair},
    {"unixConnect", unix_connect},
    {"unixListen", unix_listen},
    {"unixUnlink", unix_unlink},
    {"unixAccept", unix_accept},
    {"unixKind", unix_kind},
    {"unixPeer", unix_peer},
    {"unixPeerPidfd", unix_peer_pidfd},
    {"unixSend", unix_send},
    {"unixReceive", unix_receive},
    {"pidfdOpen", pidfd_open},
    {"pidfdSignal", pidfd_signal},
    {"pidfdWait", pidfd_wait},
    {"pidfdExit", pidfd_exit},
    {"processRead", process_read},
    {"signalsOpen", signals_open},
    {"signalsClose", signals_close},
    {"signalsRead", signals_read},
    {NULL, NULL},
};

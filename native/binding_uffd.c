/*
 * Node-API: userfaultfd(2), call by call: descriptors and addresses are the caller's. Any JavaScript thread. Everything returns a number;
 * arguments that are no aligned range come back as -EINVAL without a system call: TypeScript looks at them only where a call failed.
 */
#include "binding.h"

#include <errno.h>

/* Room for the widest call. */
#define MOST_ARGS 8

/* --- arguments ----------------------------------------------------------------------------------------------------------- */

static bool read_length(napi_env env, napi_value value, uint64_t *out) {
  double number;
  if (napi_get_value_double(env, value, &number) != napi_ok || !(number >= 1 && number <= 9007199254740992.0)) {
    return false;
  }
  *out = (uint64_t)number;
  return (double)*out == number;
}

static int read_fd(napi_env env, napi_value value) {
  int32_t fd;
  return napi_get_value_int32(env, value, &fd) == napi_ok ? fd : -1;
}

static uint32_t read_bits(napi_env env, napi_value value) {
  uint32_t bits = 0;
  napi_get_value_uint32(env, value, &bits);
  return bits;
}

static bool is_range(uint64_t addr, uint64_t len) { return ((addr | len) & (pf_os_page_size() - 1)) == 0 && addr + len > addr; }

static bool read_range(napi_env env, const napi_value *args, uint64_t *addr, uint64_t *len) {
  return pf_address(env, args[0], addr) && read_length(env, args[1], len) && is_range(*addr, *len);
}

/* A Uint8Array of at least `len` bytes, or an address. */
static bool read_source(napi_env env, napi_value value, uint64_t len, uint64_t *out) {
  uint8_t *bytes;
  size_t have;
  if (pf_bytes(env, value, &bytes, &have)) {
    *out = (uintptr_t)bytes;
    return have >= len;
  }
  return pf_address(env, value, out) && *out + len > *out;
}

static napi_value result(napi_env env, int64_t number) {
  napi_value value = NULL;
  if (number >= INT32_MIN && number <= INT32_MAX) {
    napi_create_int32(env, (int32_t)number, &value);
  } else {
    napi_create_int64(env, number, &value);
  }
  return value;
}

/* --- descriptors --------------------------------------------------------------------------------------------------------- */

static napi_value uffd_open(napi_env env, napi_callback_info info) {
  napi_value args[2];
  pf_args(env, info, 2, args);
  return result(env, pf_uffd_open((int)read_bits(env, args[0]), read_fd(env, args[1])));
}

static napi_value uffd_handshake(napi_env env, napi_callback_info info) {
  napi_value args[3];
  uint64_t features;
  pf_args(env, info, 3, args);
  uint64_t *out = pf_elements(env, args[2], napi_biguint64_array, 2);
  if (out == NULL || !pf_address(env, args[1], &features)) {
    return result(env, -EINVAL);
  }
  return result(env, pf_uffd_handshake(read_fd(env, args[0]), features, &out[0], &out[1]));
}

static napi_value read_with(napi_env env, napi_callback_info info, int64_t (*call)(int, void *, size_t)) {
  napi_value args[2];
  uint8_t *bytes;
  size_t len;
  pf_args(env, info, 2, args);
  if (!pf_bytes(env, args[1], &bytes, &len)) {
    return result(env, -EINVAL);
  }
  return result(env, call(read_fd(env, args[0]), bytes, len));
}

static napi_value uffd_read(napi_env env, napi_callback_info info) { return read_with(env, info, pf_uffd_read); }

static napi_value uffd_read_now(napi_env env, napi_callback_info info) { return read_with(env, info, pf_uffd_read_now); }

/* --- ranges ---------------------------------------------------------------------------------------------------------------- */

static napi_value uffd_register(napi_env env, napi_callback_info info) {
  napi_value args[5];
  uint64_t addr, len;
  pf_args(env, info, 5, args);
  uint64_t *out = pf_elements(env, args[4], napi_biguint64_array, 1);
  if (out == NULL || !read_range(env, args + 1, &addr, &len)) {
    return result(env, -EINVAL);
  }
  return result(env, pf_uffd_register(read_fd(env, args[0]), addr, len, read_bits(env, args[3]), out));
}

static napi_value uffd_unregister(napi_env env, napi_callback_info info) {
  napi_value args[3];
  uint64_t addr, len;
  pf_args(env, info, 3, args);
  bool good = read_range(env, args + 1, &addr, &len);
  return result(env, good ? pf_uffd_unregister(read_fd(env, args[0]), addr, len) : -EINVAL);
}

static napi_value uffd_wake(napi_env env, napi_callback_info info) {
  napi_value args[3];
  uint64_t addr, len;
  pf_args(env, info, 3, args);
  bool good = read_range(env, args + 1, &addr, &len);
  return result(env, good ? pf_uffd_wake(read_fd(env, args[0]), addr, len) : -EINVAL);
}

static napi_value uffd_write_protect(napi_env env, napi_callback_info info) {
  napi_value args[4];
  uint64_t addr, len;
  pf_args(env, info, 4, args);
  bool good = read_range(env, args + 1, &addr, &len);
  return result(env, good ? pf_uffd_write_protect(read_fd(env, args[0]), addr, len, read_bits(env, args[3])) : -EINVAL);
}

/* --- pages ----------------------------------------------------------------------------------------------------------------- */

static napi_value uffd_copy(napi_env env, napi_callback_info info) {
  napi_value args[5];
  uint64_t to, from, len;
  pf_args(env, info, 5, args);
  bool good = pf_address(env, args[1], &to) && read_length(env, args[3], &len) && is_range(to, len) &&
              read_source(env, args[2], len, &from);
  return result(env, good ? pf_uffd_copy(read_fd(env, args[0]), to, from, len, read_bits(env, args[4])) : -EINVAL);
}

static napi_value uffd_move(napi_env env, napi_callback_info info) {
  napi_value args[5];
  uint64_t to, from, len;
  pf_args(env, info, 5, args);
  bool good = pf_address(env, args[1], &to) && read_range(env, args + 2, &from, &len) && is_range(to, len);
  return result(env, good ? pf_uffd_move(read_fd(env, args[0]), to, from, len, read_bits(env, args[4])) : -EINVAL);
}

typedef int64_t (*in_place_t)(int fd, uint64_t addr, uint64_t len, uint64_t mode);

static napi_value in_place(napi_env env, napi_callback_info info, in_place_t call) {
  napi_value args[4];
  uint64_t addr, len;
  pf_args(env, info, 4, args);
  bool good = read_range(env, args + 1, &addr, &len);
  return result(env, good ? call(read_fd(env, args[0]), addr, len, read_bits(env, args[3])) : -EINVAL);
}

static napi_value uffd_zeropage(napi_env env, napi_callback_info info) { return in_place(env, info, pf_uffd_zeropage); }
static napi_value uffd_continue(napi_env env, napi_callback_info info) { return in_place(env, info, pf_uffd_continue); }
static napi_value uffd_poison(napi_env env, napi_callback_info info) { return in_place(env, info, pf_uffd_poison); }

static napi_value uffd_resolve(napi_env env, napi_callback_info info) {
  napi_value args[MOST_ARGS];
  pf_args(env, info, MOST_ARGS, args);
  pf_uffd_job_t job = {
      .fd = read_fd(env, args[0]),
      .what = (pf_uffd_what_t)read_bits(env, args[1]),
      .mode = read_bits(env, args[6]),
  };
  pf_uffd_done_t done = {0};
  double *out = pf_elements(env, args[7], napi_float64_array, 3);
  bool good = out != NULL && pf_address(env, args[2], &job.to) && read_length(env, args[4], &job.len) && is_range(job.to, job.len) &&
              read_length(env, args[5], &job.page_size) && (job.page_size & (pf_os_page_size() - 1)) == 0 &&
              (job.what != PF_UFFD_COPY || read_source(env, args[3], job.len, &job.from));
  int err = good ? pf_uffd_resolve(&job, &done) : -EINVAL;
  if (out != NULL) {
    out[0] = (double)done.dealt;
    out[1] = (double)done.copied;
    out[2] = (double)done.present;
  }
  return result(env, err);
}

const pf_export_t pf_uffd_exports[] = {
    {"uffdOpen", uffd_open},
    {"uffdHandshake", uffd_handshake},
    {"uffdRegister", uffd_register},
    {"uffdUnregister", uffd_unregister},
    {"uffdCopy", uffd_copy},
    {"uffdZeropage", uffd_zeropage},
    {"uffdContinue", uffd_continue},
    {"uffdPoison", uffd_poison},
    {"uffdMove", uffd_move},
    {"uffdWake", uffd_wake},
    {"uffdWriteProtect", uffd_write_protect},
    {"uffdResolve", uffd_resolve},
    {"uffdRead", uffd_read},
    {"uffdReadNow", uffd_read_now},
    {NULL, NULL},
};

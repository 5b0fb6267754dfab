/*
 * An addon with the system calls that move bytes past the process, of which Node has none: sendfile, splice, vmsplice,
 * copy_file_range, and those with which a program in C gives and takes what they move (readv, writev, send without a
 * copy). Each is the bare call, on the thread that calls it, so that a page that is missing meets the kernel itself:
 * test/node/calls/moving.ts and test/node/sendfile.test.ts. `later` moves on a thread of its own, which ends with the
 * last byte.
 */
#define _GNU_SOURCE
#include <node_api.h>

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#ifndef MSG_ZEROCOPY
#define MSG_ZEROCOPY 0x4000000
#endif
#ifndef SO_ZEROCOPY
#define SO_ZEROCOPY 60
#endif

typedef ssize_t (*move_t)(int out, int in, size_t count);

static ssize_t move_sendfile(int out, int in, size_t count) { return sendfile(out, in, NULL, count); }
static ssize_t move_splice(int out, int in, size_t count) { return splice(in, NULL, out, NULL, count, SPLICE_F_MOVE); }
static ssize_t move_range(int out, int in, size_t count) { return copy_file_range(in, NULL, out, NULL, count, 0); }

/* All of it, or up to the end of what there is. What had gone before a call failed stays gone. */
static ssize_t move_all(move_t move, int out, int in, size_t count) {
  size_t gone = 0;
  while (gone < count) {
    ssize_t moved = move(out, in, count - gone);
    if (moved < 0 && errno == EINTR) {
      continue;
    }
    if (moved < 0) {
      return -1;
    }
    if (moved == 0) {
      break;
    }
    gone += (size_t)moved;
  }
  return (ssize_t)gone;
}

/* --- arguments and results --- */

static void fail(napi_env env, const char *call) {
  int number = errno;
  napi_throw_error(env, number == EFAULT ? "EFAULT" : call, strerror(number));
}

static napi_value result(napi_env env, const char *call, ssize_t value) {
  napi_value out = NULL;
  if (value < 0) {
    fail(env, call);
  } else {
    napi_create_int64(env, value, &out);
  }
  return out;
}

/* The numbers among the arguments, and the bytes of the one that is a typed array. */
typedef struct {
  int64_t numbers[3];
  uint8_t *bytes;
  size_t length;
} given_t;

static given_t given(napi_env env, napi_callback_info info) {
  napi_value values[4];
  size_t count = 4, used = 0;
  given_t out = {.bytes = NULL};
  napi_get_cb_info(env, info, &count, values, NULL, NULL);
  for (size_t i = 0; i < count && used < 3; i++) {
    if (napi_get_value_int64(env, values[i], &out.numbers[used]) == napi_ok) {
      used++;
    } else {
      napi_get_typedarray_info(env, values[i], NULL, &out.length, (void **)&out.bytes, NULL, NULL);
    }
  }
  return out;
}

static napi_value two(napi_env env, const int ends[2]) {
  napi_value out, number;
  napi_create_array_with_length(env, 2, &out);
  for (uint32_t i = 0; i < 2; i++) {
    napi_create_int32(env, ends[i], &number);
    napi_set_element(env, out, i, number);
  }
  return out;
}

/* --- descriptors --- */

/* Two ends of a TCP connection. */
static int connect_pair(int ends[2]) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t length = sizeof address;
  int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  ends[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  struct sockaddr *any = (struct sockaddr *)&address;
  int failed = bind(listener, any, length) != 0 || listen(listener, 1) != 0 || getsockname(listener, any, &length) != 0;
  failed = failed || connect(ends[0], any, length) != 0;
  ends[1] = failed ? -1 : accept4(listener, NULL, NULL, SOCK_CLOEXEC);
  close(listener);
  return ends[1] < 0 ? -1 : 0;
}

static napi_value addon_sockets(napi_env env, napi_callback_info info) {
  int ends[2];
  (void)info;
  return connect_pair(ends) == 0 ? two(env, ends) : result(env, "sockets", -1);
}

static napi_value addon_pipe(napi_env env, napi_callback_info info) {
  int ends[2];
  (void)info;
  return pipe2(ends, O_CLOEXEC) == 0 ? two(env, ends) : result(env, "pipe", -1);
}

static napi_value addon_memfd(napi_env env, napi_callback_info info) {
  (void)info;
  return result(env, "memfd_create", memfd_create("moving", MFD_CLOEXEC));
}

/* --- (out, in, count): no memory of ours --- */

static napi_value move_now(napi_env env, napi_callback_info info, const char *name, move_t move) {
  given_t in = given(env, info);
  return result(env, name, move_all(move, (int)in.numbers[0], (int)in.numbers[1], (size_t)in.numbers[2]));
}

static napi_value addon_sendfile(napi_env env, napi_callback_info info) {
  return move_now(env, info, "sendfile", move_sendfile);
}

static napi_value addon_splice(napi_env env, napi_callback_info info) {
  return move_now(env, info, "splice", move_splice);
}

static napi_value addon_range(napi_env env, napi_callback_info info) {
  return move_now(env, info, "copy_file_range", move_range);
}

typedef struct {
  int out, in;
  size_t count;
  move_t move;
} errand_t;

/* Whoever reads the other end sees its end too early where something failed. */
static void *run_errand(void *argument) {
  errand_t *errand = argument;
  move_all(errand->move, errand->out, errand->in, errand->count);
  close(errand->out);
  close(errand->in);
  free(errand);
  return NULL;
}

/* Takes both descriptors, and closes them at the end. */
static napi_value addon_later(napi_env env, napi_callback_info info) {
  given_t in = given(env, info);
  errand_t *errand = malloc(sizeof *errand);
  pthread_t thread;
  *errand = (errand_t){.out = (int)in.numbers[0], .in = (int)in.numbers[1], .count = (size_t)in.numbers[2]};
  errand->move = lseek(errand->in, 0, SEEK_CUR) >= 0 ? move_sendfile : move_splice; /* one wants a file, one a pipe */
  errno = pthread_create(&thread, NULL, run_errand, errand);
  if (errno == 0) {
    pthread_detach(thread);
  }
  return result(env, "later", errno == 0 ? 0 : -1);
}

/* --- (fd, bytes): once, and so perhaps fewer of them --- */

/* Two pieces, the first of nine bytes. */
static int pieces(const given_t *in, struct iovec parts[2]) {
  size_t first = in->length < 9 ? in->length : 9;
  parts[0] = (struct iovec){.iov_base = in->bytes, .iov_len = first};
  parts[1] = (struct iovec){.iov_base = in->bytes + first, .iov_len = in->length - first};
  return 2;
}

static napi_value addon_writev(napi_env env, napi_callback_info info) {
  given_t in = given(env, info);
  struct iovec parts[2];
  return result(env, "writev", writev((int)in.numbers[0], parts, pieces(&in, parts)));
}

static napi_value addon_readv(napi_env env, napi_callback_info info) {
  given_t in = given(env, info);
  struct iovec parts[2];
  return result(env, "readv", readv((int)in.numbers[0], parts, pieces(&in, parts)));
}

static napi_value addon_recv(napi_env env, napi_callback_info info) {
  given_t in = given(env, info);
  return result(env, "recv", recv((int)in.numbers[0], in.bytes, in.length, MSG_WAITALL));
}

static napi_value addon_peek(napi_env env, napi_callback_info info) {
  given_t in = given(env, info);
  return result(env, "peek", recv((int)in.numbers[0], in.bytes, in.length, MSG_WAITALL | MSG_PEEK));
}

static napi_value addon_vmsplice(napi_env env, napi_callback_info info) {
  given_t in = given(env, info);
  struct iovec part = {.iov_base = in.bytes, .iov_len = in.length};
  return result(env, "vmsplice", vmsplice((int)in.numbers[0], &part, 1, 0));
}

static napi_value addon_send(napi_env env, napi_callback_info info) {
  given_t in = given(env, info);
  int yes = 1;
  setsockopt((int)in.numbers[0], SOL_SOCKET, SO_ZEROCOPY, &yes, sizeof yes);
  return result(env, "send", send((int)in.numbers[0], in.bytes, in.length, MSG_ZEROCOPY | MSG_NOSIGNAL));
}

NAPI_MODULE_INIT() {
  static const struct {
    const char *name;
    napi_callback body;
  } functions[] = {
      {"sockets", addon_sockets},   {"pipe", addon_pipe},     {"memfd", addon_memfd},
      {"sendfile", addon_sendfile}, {"splice", addon_splice}, {"copyFileRange", addon_range},
      {"later", addon_later},       {"peek", addon_peek},     {"readv", addon_readv},
      {"recv", addon_recv},         {"writev", addon_writev}, {"send", addon_send},
      {"vmsplice", addon_vmsplice},
  };
  for (size_t i = 0; i < sizeof functions / sizeof *functions; i++) {
    napi_value function;
    napi_create_function(env, functions[i].name, NAPI_AUTO_LENGTH, functions[i].body, NULL, &function);
    napi_set_named_property(env, exports, functions[i].name, function);
  }
  return exports;
}

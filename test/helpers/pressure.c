/* The addon that puts the process it is loaded into under pressure: press(what, left), off with -1; see pressure.h; and that counts what malloc has given out: press('malloc', 0). Used by test/fixtures/pressed.ts and mixed.ts. */
#define _GNU_SOURCE
#include "pressure.h"

#include <malloc.h>
#include <node_api.h>

/* Bytes that malloc has given out and that were not freed, in all of its arenas. 0 where the C library does not say. */
static double given_out(void) {
#ifdef __GLIBC__
  struct mallinfo2 info = mallinfo2(); /* glibc 2.33 */
  return (double)(info.uordblks + info.hblkhd);
#else
  return 0;
#endif
}

static napi_value press(napi_env env, napi_callback_info info) {
  napi_value arguments[2], result;
  size_t count = 2, len;
  char what[16] = "";
  double number = 0;
  napi_get_cb_info(env, info, &count, arguments, NULL, NULL);
  napi_get_value_string_utf8(env, arguments[0], what, sizeof what, &len);
  napi_get_value_double(env, arguments[1], &number);
  napi_create_double(env, strcmp(what, "malloc") == 0 ? given_out() : pressure_apply(what, number), &result);
  return result;
}

NAPI_MODULE_INIT() {
  napi_value function;
  napi_create_function(env, "press", NAPI_AUTO_LENGTH, press, NULL, &function);
  napi_set_named_property(env, exports, "press", function);
  return exports;
}

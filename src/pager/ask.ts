/** Calls stores. Runs in the pager's Worker. */

import type { NativeBinding } from '../native/binding.js';
import { isThenable, Refused } from './answer.js';
import type { Call } from './order.js';

/** The store's answer. A page of its own Worker that the store touches is an error here, where the core reports it. */
export function ask(native: NativeBinding, call: Call): unknown {
  const { store, byteLength } = call.from;
  if (store.byteLength !== byteLength) {
    throw new Refused(
      'ERR_PAGEFAULT_STORE_CHANGED',
      `the store had ${byteLength} bytes when it was opened and has ${store.byteLength} now`,
    );
  }
  native.attemptBegin();
  let failure: ReturnType<NativeBinding['attemptEnd']> = null;
  let answer: unknown;
  try {
    answer = call.call();
  } finally {
    failure = native.attemptEnd();
  }
  if (failure === null) return answer;
  if (isThenable(answer)) answer.then(undefined, () => {}); // it is not looked at, but must not end the Worker
  if (failure.code === 'ERR_PAGEFAULT_DEADLOCK') throw new Refused('ERR_PAGEFAULT_DEADLOCK', failure.message);
  throw new Error(`${call.method} touched a page that cannot be had: ${failure.message}`);
}

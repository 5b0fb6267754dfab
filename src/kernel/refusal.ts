/** Errors for what the kernel refused: one sentence, the errno, and why where that is known. Any thread. */

import { errnoNames } from '../errors/from-native.js';
import { SystemError } from '../errors/system-error.js';
import { NO_DESCRIPTOR } from './descriptor.js';

/** Reasons by errno name: 'ENOMEM' → what that means here and what helps. */
export type Reasons = Readonly<Record<string, string>>;

/** The SystemError for a result below 0. `sentence` says what was refused; without a reason the errno's own description follows. */
export function refused(sentence: string, result: number, syscall: string, reasons: Reasons = {}): SystemError {
  const { code, description } = errnoNames(-result);
  const why = Object.hasOwn(reasons, code) ? reasons[code] : (NO_DESCRIPTOR[-result] ?? description);
  return new SystemError('ERR_PAGEFAULT_SYSTEM', `${sentence}: ${why} (${syscall}: ${code})`, {
    errno: -result,
    syscall,
  });
}

/** The name of a result below 0: 'ENOMEM' for -12. */
export function errnoName(result: number): string {
  return errnoNames(-result).code;
}

/** Runs a synchronous call of `fs`; what it throws becomes a SystemError with a sentence. */
export function fromFs<R>(sentence: string, call: () => R, reasons: Reasons = {}): R {
  try {
    return call();
  } catch (error) {
    const { errno, syscall } = error as NodeJS.ErrnoException;
    if (errno === undefined) throw error;
    throw refused(sentence, errno, syscall ?? 'fs', reasons);
  }
}

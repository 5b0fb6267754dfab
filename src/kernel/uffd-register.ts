/** Registering a range, and what must be possible with it. Any thread. */

import { outOfRange, wrongType } from '../errors/argument.js';
import { UnsupportedError } from '../errors/unsupported-error.js';
import type { NativeUffd } from '../native/kernel/uffd.js';
import { FlagSet } from './flags.js';
import { IOCTLS, MODES, namesOf, toBits, type UffdIoctl } from './names.js';
import type { Range } from './range.js';
import { rangeFailure } from './uffd-failures.js';

const WRITE_PROTECT = 2;
const MINOR = 4;
/** Bits of UFFDIO_WRITEPROTECT and UFFDIO_CONTINUE, which a range has in one mode only. */
const IN_WRITE_PROTECT = 1n << 6n;
const IN_MINOR = 1n << 7n;
const MODE_LIMIT = 2 ** 32;

/** ioctls of a range, of which the kernel tells. */
const told = new BigUint64Array(1);

function lacking(missing: bigint): UnsupportedError {
  const names = namesOf(missing, IOCTLS);
  return new UnsupportedError(`register: the range lacks the ioctls ${names.join(', ')}`, undefined, names);
}

/** Those of `needed` that no range has in this mode: known before, so that an earlier registration stays as it is. */
function outOfMode(needed: bigint, mode: number): bigint {
  const absent = ((mode & WRITE_PROTECT) === 0 ? IN_WRITE_PROTECT : 0n) | ((mode & MINOR) === 0 ? IN_MINOR : 0n);
  return needed & absent;
}

/** See `Uffd.register`. `needed`: bits of the ioctls that the range must have. */
export function register(
  core: NativeUffd,
  fd: number,
  needed: bigint,
  range: Range,
  modes: unknown,
): FlagSet<UffdIoctl> {
  const mode = Number(toBits('register: the modes', modes, MODES));
  if (mode === 0) throw wrongType('register: at least one mode must be given');
  if (mode >= MODE_LIMIT) throw outOfRange(`register: there is no mode 0x${mode.toString(16)}`);
  const absent = needed === 0n ? 0n : outOfMode(needed, mode);
  if (absent !== 0n) throw lacking(absent);
  const result = core.uffdRegister(fd, range?.address, range?.byteLength, mode, told);
  if (result < 0) throw rangeFailure('register', range, -result);
  const ioctls = new FlagSet(told[0] ?? 0n, IOCTLS);
  const missing = needed & ~ioctls.bits;
  if (missing === 0n) return ioctls;
  core.uffdUnregister(fd, range.address, range.byteLength);
  throw lacking(missing);
}

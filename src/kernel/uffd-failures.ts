/** What the kernel's refusals of userfaultfd calls mean, in sentences. Runs only after a call has failed. Any thread. */

import { constants } from 'node:os';
import { types } from 'node:util';
import { outOfRange, shown, wrongType } from '../errors/argument.js';
import { errnoNames } from '../errors/from-native.js';
import { UffdError, type UffdErrorCode } from '../errors/uffd-error.js';
import { systemError } from './descriptor.js';
import { checkRange, pageSize, type Range } from './range.js';

/** A call, as the sentences name it. */
export type UffdCall =
  | 'register'
  | 'unregister'
  | 'copy'
  | 'zeropage'
  | 'wake'
  | 'writeProtect'
  | 'removeWriteProtection'
  | 'continue'
  | 'poison'
  | 'move'
  | 'resolve';

const { EAGAIN, EBUSY, EEXIST, EFAULT, EINVAL, ENOENT, ENOMEM, ENOSPC, ENOTTY, EPERM, ESRCH } = constants.errno;

const NAMES: Record<UffdCall, string> = {
  register: 'UFFDIO_REGISTER',
  unregister: 'UFFDIO_UNREGISTER',
  copy: 'UFFDIO_COPY',
  zeropage: 'UFFDIO_ZEROPAGE',
  wake: 'UFFDIO_WAKE',
  writeProtect: 'UFFDIO_WRITEPROTECT',
  removeWriteProtection: 'UFFDIO_WRITEPROTECT',
  continue: 'UFFDIO_CONTINUE',
  poison: 'UFFDIO_POISON',
  move: 'UFFDIO_MOVE',
  resolve: 'UFFDIO_COPY, ZEROPAGE or CONTINUE',
};

const REGISTER: Record<number, string> = {
  [EBUSY]: 'part of the range belongs to another userfaultfd already',
  [EINVAL]:
    'the range is not mapped throughout, its memory is of a kind that this mode does not work on, the descriptor is of another process, or its handshake was not made',
  [ENOMEM]: "the kernel's limit on mappings (vm.max_map_count) or its memory is used up",
  [EPERM]: 'the file is mapped from a descriptor that may not write it',
};

const PAGES: Record<number, string> = {
  [EAGAIN]:
    'an event has not been read yet, or the mapping is being changed: read the events and call again, or use resolve()',
  [EEXIST]: 'a page is there already',
  [ENOENT]: 'the range is not registered with this userfaultfd, or not throughout',
  [EINVAL]: 'the range is not of a kind, or not registered in a mode, that the call works on',
  [EFAULT]: 'the source cannot be read',
  [ESRCH]: 'the process whose memory it is has ended',
  [ENOSPC]: 'the process whose memory it is has ended, or its file system is full',
  [ENOTTY]: 'this kernel lacks the call',
};

const SPECIAL: Partial<Record<UffdCall, Record<number, string>>> = {
  register: REGISTER,
  unregister: { [EINVAL]: 'the range is not mapped throughout, or its memory is of a kind that cannot be registered' },
  continue: { [EFAULT]: 'the file has no page there (a hole): put one in first' },
  move: {
    [EBUSY]: 'a page is shared with a child process or pinned: after fork it must be written before it can be moved',
    [ENOENT]: 'the source has no page there (allowHoles lets that be), or one side is not mapped',
    [EINVAL]:
      'both sides must be private anonymous memory of this process that may be written, equally locked, and the target registered with this userfaultfd',
  },
};

function meaning(call: UffdCall, errno: number): string {
  return SPECIAL[call]?.[errno] ?? PAGES[errno] ?? 'the kernel refuses';
}

const hex = (address: bigint): string => `0x${address.toString(16)}`;

/** The error of a call on a range that either was done or was not. Arguments are looked at first: they may be the reason. */
export function rangeFailure(call: UffdCall, range: Range, errno: number): Error {
  checkRange(call, range);
  if (range.address === 0n) throw outOfRange(`${call}: no memory begins at address 0`, 'ERR_PAGEFAULT_NULL_BASE');
  const sentence = `${call}: ${range.byteLength} bytes at ${hex(range.address)}: ${meaning(call, errno)}`;
  return systemError(sentence, errno, `ioctl(${NAMES[call]})`);
}

const CODES: Partial<Record<UffdCall, UffdErrorCode>> = { zeropage: 'ERR_PAGEFAULT_ZEROPAGE_FAILED' };

/** The error of a call that works through a range page by page and stopped after `copied` bytes. */
export function pagesFailure(call: UffdCall, to: bigint, copied: number, byteLength: number, errno: number): UffdError {
  const address = to + BigInt(copied);
  const code = copied > 0 ? 'ERR_PAGEFAULT_PARTIALLY_COPIED' : (CODES[call] ?? 'ERR_PAGEFAULT_COPY_FAILED');
  const far = copied > 0 ? `stopped after ${copied} of ${byteLength} bytes, at` : 'nothing was done at';
  const sentence = `${call}: ${far} ${hex(address)}: ${meaning(call, errno)} (${errnoNames(errno).code})`;
  return new UffdError(code, sentence, {
    address,
    copied: copied > 0 ? copied : undefined,
    errno,
    syscall: `ioctl(${NAMES[call]})`,
  });
}

/** Throws unless these are a target and a source of whole pages. A source need not be aligned, but for `move`. */
export function checkTransfer(call: UffdCall, to: unknown, source: unknown): void {
  checkRange(call, { address: to, byteLength: pageSize() });
  if (call === 'move') {
    checkRange(call, source);
    checkRange(call, { address: to, byteLength: source.byteLength });
    return;
  }
  if (typeof source !== 'object' || source === null || !isSource(source)) {
    const sentence = `${call}: the source must be a Uint8Array or a range ({ address, byteLength }), not ${shown(source)}`;
    throw wrongType(sentence);
  }
  checkRange(call, { address: to, byteLength: source.byteLength });
  if (types.isUint8Array(source)) return;
  const { address, byteLength } = source;
  if (address >= 0n && address + BigInt(byteLength) <= 1n << 64n) return;
  throw outOfRange(`${call}: the source, ${byteLength} bytes at ${shown(address)}, does not lie within 0 to 2^64`);
}

function isSource(source: object): source is Uint8Array | Range {
  return types.isUint8Array(source) || typeof (source as Partial<Range>).address === 'bigint';
}

/** What the core takes: bytes as they are (those of another realm, such as a vm context, too), a range by its address. It refuses all else. */
export function sourceOf(source: Uint8Array | Range): Uint8Array | bigint {
  if (source instanceof Uint8Array) return source;
  const { address } = (source ?? {}) as Partial<Range>;
  return address ?? (source as unknown as Uint8Array);
}

/** A region of the core as the other files here use it: its numbers, and calls into the core that give public errors. */

import { ClosedError } from '../errors/closed-error.js';
import { fromNative, toPageError, type Where } from '../errors/from-native.js';
import type { PagefaultError } from '../errors/pagefault-error.js';
import type { NativeBinding, NativeFailure } from '../native/binding.js';
import { native } from '../native/load.js';

/** Regions of this thread by id, to name the segment in a failure that another segment's page caused. */
const known = new Map<number, { where: Where; holders: number }>();

/** The error for a failure that the core reports, with the name of the segment it is of. */
export function failureError(failure: NativeFailure): PagefaultError {
  return toPageError(failure, known.get(failure.region)?.where);
}

/** What is known of a region. */
export interface RegionNumbers extends Where {
  /** The core's. */
  readonly id: number;
  readonly byteLength: number;
  readonly writable: boolean;
}

export class Region implements RegionNumbers {
  readonly id: number;
  readonly name: string;
  readonly byteLength: number;
  readonly pageSize: number;
  readonly writable: boolean;
  closed = false;

  constructor({ id, name, byteLength, pageSize, writable }: RegionNumbers) {
    this.id = id;
    this.name = name;
    this.byteLength = byteLength;
    this.pageSize = pageSize;
    this.writable = writable;
    const holders = (known.get(id)?.holders ?? 0) + 1;
    known.set(id, { where: { name, pageSize }, holders });
  }

  check(): void {
    if (this.closed) throw new ClosedError(this.name);
  }

  /** Calls the core; throws a ClosedError once the segment is closed. */
  call<R>(call: (native: NativeBinding, id: number) => R): R {
    this.check();
    try {
      return call(native(), this.id);
    } catch (error) {
      throw fromNative(error, this);
    }
  }

  close(): void {
    if (this.closed) return;
    this.closed = true;
    const entry = known.get(this.id);
    if (entry === undefined) return;
    entry.holders -= 1;
    if (entry.holders === 0) known.delete(this.id);
  }
}

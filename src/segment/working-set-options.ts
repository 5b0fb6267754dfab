/** The option `workingSet` of `map`: what it means, and a sentence for each that is wrong. Any thread. */

import { resolve } from 'node:path';
import { outOfRange, shown, wrongType } from '../errors/argument.js';
import { checkKeys } from '../options/keys.js';
import { parseSize } from '../options/sizes.js';
import { DEFAULT_CAP } from '../pager/working-set/index.js';

export interface WorkingSetOptions {
  /** The file that this run is added to when the segment is closed, or by `segment.workingSet.save()`; made where there is none. */
  record?: string;
  /** The file whose pages are loaded ahead. Must exist, unless `record` names the same. */
  replay?: string;
  /**
   * How much is loaded ahead, and how much is kept: bytes, or '64MiB'. Never more than `resident` is loaded ahead.
   * @default '1GiB'
   */
  cap?: number | string;
}

export interface CheckedWorkingSet {
  record: string | undefined;
  replay: string | undefined;
  cap: number;
}

function pathOf(name: string, value: unknown): string | undefined {
  if (value === undefined) return undefined;
  if (typeof value !== 'string') throw wrongType(`map(): ${name} must be the path of a file, not ${shown(value)}`);
  if (value === '' || value.includes('\0'))
    throw wrongType(`map(): ${name} must be the path of a file, not ${shown(value)}`);
  return resolve(value);
}

/** Undefined where nothing was asked for. */
export function checkWorkingSet(value: unknown): CheckedWorkingSet | undefined {
  if (value === undefined) return undefined;
  if (typeof value === 'string') {
    const path = pathOf('workingSet', value);
    return { record: path, replay: path, cap: DEFAULT_CAP };
  }
  checkKeys('map(): workingSet', value, ['record', 'replay', 'cap']);
  const { record, replay, cap } = value as WorkingSetOptions;
  const checked = {
    record: pathOf('workingSet.record', record),
    replay: pathOf('workingSet.replay', replay),
    cap: cap === undefined ? DEFAULT_CAP : parseSize('map(): workingSet.cap', cap),
  };
  if (checked.record === undefined && checked.replay === undefined) {
    throw wrongType('map(): workingSet must have a file to record or to replay');
  }
  if (checked.cap === 0) throw outOfRange('map(): workingSet.cap must be at least a page, not 0');
  return checked;
}

/** The store `custom`: a module of the user's, opened in the pager's Worker by `map`. Any thread. */

import { isAbsolute } from 'node:path';
import { pathToFileURL } from 'node:url';
import { shown, wrongType } from '../errors/argument.js';
import { reasonOf } from '../errors/reason.js';
import type { CustomRef } from './ref.js';

const HOW = "write the store as a module of its own and pass custom(new URL('./store.js', import.meta.url), options)";

function url(moduleUrl: unknown): string {
  if (moduleUrl instanceof URL) {
    if (moduleUrl.protocol !== 'file:') {
      throw wrongType(`custom(): the module must be a file: URL, not ${moduleUrl.protocol}; ${HOW}`);
    }
    return moduleUrl.href;
  }
  if (typeof moduleUrl === 'string') {
    if (moduleUrl.startsWith('file:')) return new URL(moduleUrl).href;
    if (isAbsolute(moduleUrl)) return pathToFileURL(moduleUrl).href;
    throw wrongType(`custom(): ${shown(moduleUrl)} is relative, and it is not known to which file; ${HOW}`);
  }
  if (typeof moduleUrl === 'function' || (typeof moduleUrl === 'object' && moduleUrl !== null)) {
    throw wrongType(
      `custom(): a store runs in a Worker, because the thread that faults is stopped, so it cannot be ${shown(moduleUrl)}; ${HOW}`,
    );
  }
  throw wrongType(`custom(): the module must be a URL or an absolute path, not ${shown(moduleUrl)}; ${HOW}`);
}

/**
 * Pages from a store of your own. The module's default export is called in a Worker with the options, which are copied
 * now and must survive structured cloning, and returns an object with `byteLength` and `read`.
 *
 * @example
 * const segment = await map(custom(new URL('./store.js', import.meta.url), { url: 'https://example.org/data' }));
 */
export function custom(moduleUrl: string | URL, options?: unknown): CustomRef {
  const href = url(moduleUrl);
  let copy: unknown;
  try {
    copy = structuredClone(options);
  } catch (error) {
    const reason = reasonOf(error);
    const refused = wrongType(
      `custom(): the options must survive structured cloning, to travel to the Worker: ${reason}`,
    );
    refused.cause = error;
    throw refused;
  }
  return Object.freeze({ kind: 'custom', moduleUrl: href, options: copy });
}

// A store for custom-store.js: text that repeats a word for ever. A store module exports a function that gets the options
// of custom() and returns an object with `byteLength` and `read`. It runs in a Worker.
export default function open({ word, byteLength }) {
  const pattern = new TextEncoder().encode(`${word} `);
  return {
    byteLength,
    /** Puts the bytes at `offset` into `into` and says how many. May also be async, or answer with a list of chunks. */
    read(offset, into) {
      for (let i = 0; i < into.length; i++) into[i] = pattern[(offset + i) % pattern.length];
      return into.length;
    },
  };
}

// The one state of the page, and who wants to know when a part of it changes.

/**
 * Keep a state. `set` changes some of its keys, `touch` says that what a key holds was changed in place;
 * whoever asked for one of these keys with `on` is called once, after the current task.
 */
export function createStore(state) {
  const listeners = [];
  let changed = null;

  function touch(...keys) {
    if (!changed) {
      changed = new Set();
      queueMicrotask(notify);
    }
    for (const key of keys) changed.add(key);
  }

  function notify() {
    const keys = changed;
    changed = null;
    for (const { wanted, act } of listeners) if (wanted.some((key) => keys.has(key))) act(state);
  }

  return {
    state,
    touch,
    set(patch) {
      const keys = Object.keys(patch).filter((key) => state[key] !== patch[key]);
      Object.assign(state, patch);
      if (keys.length) touch(...keys);
    },
    on(wanted, act) {
      listeners.push({ wanted, act });
    },
  };
}

/** Webhooks: row changes of databases, posted to addresses outside. */
export { Hook, type HookDeps, type HookOptions } from "./hook.ts";

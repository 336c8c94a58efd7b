/// <reference lib="deno.unstable" />
/**
 * The house rules `deno lint` cannot know: what keeps `domain/` and lib/raft replayable, and what no file of the
 * repository may do. Every rule carries a hint that names the way out.
 */
import { pureRules } from "./pure_rules.ts";
import { repoRules } from "./repo_rules.ts";

const plugin: Deno.lint.Plugin = { name: "ultracloud", rules: { ...pureRules, ...repoRules } };

export default plugin;

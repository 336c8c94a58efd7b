import { fault } from "@ultracloud/base";
import data from "./profiles.json" with { type: "json" };

/** A supported shape of a cluster: what must run in it, and what may. */
export interface Profile {
  readonly name: string;
  readonly summary: string;
  readonly required: readonly string[];
  /** Of these, what runs on each control-plane node; the rest runs on one node at least. */
  readonly requiredOnEach: readonly string[];
  readonly optional: readonly string[];
}
export type ProfileName = keyof typeof data.profiles;

/**
 * The canonical profiles: the quickstart starts the first, the others describe installed clusters. They stand in a file
 * of data because Nix reads it too.
 */
export const profiles: Readonly<Record<ProfileName, Profile>> = data.profiles;

/** Agents that come with a service wherever it may be: the service does nothing on a host without its agent. */
export const companions: Readonly<Record<string, string>> = data.companions;

/**
 * Components to start: what the profile requires, and what was asked for beside it. `built` is what this workspace
 * has; asking for more is refused by name.
 */
export function componentsOf(profile: Profile, asked: readonly string[], built: ReadonlySet<string>): string[] {
  for (const name of asked) {
    if (profile.required.includes(name)) continue;
    if (!profile.optional.includes(name)) {
      throw fault(
        "invalid_argument",
        "component_unknown",
        `Cannot add ${name} to ${profile.name}: wanted one of ${profile.optional.join(", ")}`,
      );
    }
    if (!built.has(name)) {
      throw fault(
        "failed_precondition",
        "component_not_built",
        `Cannot add ${name} to ${profile.name}: this release does not have it yet`,
      );
    }
  }
  return [...new Set([...profile.required, ...asked])];
}

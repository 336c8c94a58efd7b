/** How one make of BMC departs from the standard; data, so that a report from the field becomes a line here. */
export interface Quirks {
  readonly manufacturer: string;
  readonly model: string;
  /** Where the drives hang: newer BMCs have them at the system, older ones at the manager. */
  readonly mediaAt: "system" | "manager" | "both";
  /** Whether there is a session service; otherwise every call carries name and password. */
  readonly sessions: boolean;
  /** A change must say which version it changes, else 428. */
  readonly wantsEtag: boolean;
  /** ETags are sent weak and compared letter by letter with the strong form. */
  readonly weakEtags: boolean;
  /** `Image` still names what was ejected; only `ConnectedVia` tells. There is no `Inserted`. */
  readonly keepsImage: boolean;
  /** `Cd` is the physical drive; the virtual one is chosen by attributes of the manager. */
  readonly cdIsPhysical: boolean;
  /** Inserts that answer success and attach nothing, before the first that works. */
  readonly emptySuccesses: number;
  /** InsertMedia answers 202 and a task. */
  readonly insertIsTask: boolean;
  /** InsertMedia refuses parameters other than Image. */
  readonly imageOnly: boolean;
  readonly resetTypes: readonly string[];
  /** The reset types stand in a document of their own. */
  readonly resetInfo: boolean;
  readonly bootTargets: readonly string[];
}

const plain: Quirks = {
  manufacturer: "Contoso",
  model: "by the standard",
  mediaAt: "system",
  sessions: true,
  wantsEtag: false,
  weakEtags: false,
  keepsImage: false,
  cdIsPhysical: false,
  emptySuccesses: 0,
  insertIsTask: false,
  imageOnly: false,
  resetTypes: ["On", "ForceOff", "ForceRestart", "GracefulShutdown"],
  resetInfo: false,
  bootTargets: ["None", "Pxe", "Hdd", "Cd", "BiosSetup"],
};

/** Profiles after makes; what each does was seen in public issue threads, not at a machine of ours. */
export const quirkProfiles = {
  /** By the letter of the standard. */
  "standard": plain,
  /** Drives at the manager, no session service, no way to restart but off and on. */
  "older": {
    ...plain,
    model: "older",
    mediaAt: "manager",
    sessions: false,
    imageOnly: true,
    resetTypes: ["On", "ForceOff"],
  },
  /** After Supermicro: community.general #6969 and #7470. */
  "supermicro-like": {
    ...plain,
    manufacturer: "Supermicro",
    model: "X-like",
    mediaAt: "manager",
    wantsEtag: true,
    weakEtags: true,
    keepsImage: true,
    insertIsTask: true,
    resetInfo: true,
    bootTargets: ["None", "Pxe", "Hdd", "Cd", "UsbCd", "BiosSetup"],
  },
  /** After iDRAC: iDRAC-Redfish-Scripting #90, community.general #494, terraform-provider-redfish #331. */
  "idrac-like": {
    ...plain,
    manufacturer: "Dell Inc.",
    model: "R-like",
    mediaAt: "both",
    wantsEtag: true,
    cdIsPhysical: true,
    emptySuccesses: 1,
    resetTypes: ["On", "ForceOff", "ForceRestart", "PowerCycle"],
    bootTargets: ["None", "Pxe", "Floppy", "Cd", "Hdd", "BiosSetup", "UefiTarget", "UefiHttp"],
  },
} as const satisfies Readonly<Record<string, Quirks>>;
export type QuirkProfile = keyof typeof quirkProfiles;

/** The cluster file of lib/cluster-state, under the names that launchers and the test cluster use. */
export {
  type ClusterNode,
  type ClusterState as ClusterFile,
  clusterStateSchema as clusterFileSchema,
  nodesWith,
  parseClusterState as parseClusterFile,
} from "@ultracloud/cluster-state";

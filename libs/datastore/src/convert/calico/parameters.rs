//! What becomes of each of Felix's parameters here.
//! In: the names that Calico has (felix/config/config_params.go, felix/docs/config-params.json). Out: whether one is honoured, and
//! if not, why.
//! Invariant: every parameter stands here once; what is honoured is what `felixconfiguration` reads; docs/felix.md says the same.
//! Never: a value.

/// Whether a parameter is honoured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is, as soon as it is written.
    Honoured,
    /// A setting of the agent decides, and a start of it.
    AtStart,
    /// Not yet.
    NotYet,
    /// There is nothing that it could mean here.
    Meaningless,
}

/// One parameter.
#[derive(Clone, Copy, Debug)]
pub struct Parameter {
    /// As Felix calls it.
    pub name: &'static str,
    /// As a field of FelixConfiguration; empty: it has none.
    pub field: &'static str,
    /// Whether it is honoured.
    pub standing: Standing,
    /// How, or why not.
    pub note: &'static str,
}

/// Parameters of which the same is to be said.
type Group = (Standing, &'static str, &'static [(&'static str, &'static str)]);

/// The one that stands in a field.
#[must_use]
pub fn of_field(field: &str) -> Option<Parameter> {
    all().find(|parameter| parameter.field == field && !field.is_empty())
}

/// Every one.
pub fn all() -> impl Iterator<Item = Parameter> {
    GROUPS.iter().flat_map(|(standing, note, names)| {
        names.iter().map(|(name, field)| Parameter { name, field, standing: *standing, note })
    })
}

const GROUPS: &[Group] = &[
    (
        Standing::Honoured,
        "as in Calico; Return is Accept: the host's own rules are asked in any case",
        &[("DefaultEndpointToHostAction", "defaultEndpointToHostAction")],
    ),
    (Standing::Honoured, "what a refused packet meets", &[("IptablesFilterDenyAction", "iptablesFilterDenyAction")]),
    (
        Standing::Honoured,
        "what is logged, where the setting `log` is not given",
        &[("LogSeverityScreen", "logSeverityScreen")],
    ),
    (
        Standing::Honoured,
        "as in Calico, at the uplink",
        &[
            ("LocalSubnetL2Reachability", "localSubnetL2Reachability"),
            ("LocalSubnetL2ReachabilityRefreshInterval", "localSubnetL2ReachabilityRefreshInterval"),
        ],
    ),
    (Standing::Honoured, "as in Calico, for every dataplane", &[("FloatingIPs", "floatingIPs")]),
    (
        Standing::Honoured,
        "pods with the annotation `allowedSourcePrefixes` may send by these too; a pod without it pays nothing",
        &[("WorkloadSourceSpoofing", "workloadSourceSpoofing")],
    ),
    (
        Standing::Honoured,
        "as in Calico; without natPortRange it is 1025:29999 for TCP, 20000:29999 for the rest",
        &[
            ("NATPortRange", "natPortRange"),
            ("NATOutgoingAddress", "natOutgoingAddress"),
            ("NATOutgoingExclusions", "natOutgoingExclusions"),
        ],
    ),
    (
        Standing::Honoured,
        "no more than the uplink leaves; VXLAN has one device for both families, which has the lesser; pods that come have it too",
        &[("VXLANMTU", "vxlanMTU"), ("VXLANMTUV6", "vxlanMTUV6"), ("IpInIpMtu", "ipipMTU")],
    ),
    (
        Standing::Honoured,
        "as in Calico, from 1; another port remakes the device, and no pod sends to it from then on",
        &[("VXLANVNI", "vxlanVNI"), ("VXLANPort", "vxlanPort")],
    ),
    (
        Standing::Honoured,
        "as in Calico, by VXLAN and IPIP; what lies within a pool is left out",
        &[("ExternalNodesCIDRList", "externalNodesList")],
    ),
    (
        Standing::Honoured,
        "false: none of these tunnels; else where pools ask for them",
        &[("VXLANEnabled", "vxlanEnabled"), ("IpInIpEnabled", "ipipEnabled")],
    ),
    (
        Standing::Honoured,
        "as in Calico",
        &[
            ("FailsafeInboundHostPorts", "failsafeInboundHostPorts"),
            ("FailsafeOutboundHostPorts", "failsafeOutboundHostPorts"),
        ],
    ),
    (
        Standing::AtStart,
        "`conntrackTimeouts`: constants of the programs",
        &[("BPFConntrackTimeouts", "bpfConntrackTimeouts")],
    ),
    (Standing::AtStart, "`uplink`", &[("BPFDataIfacePattern", "bpfDataIfacePattern")]),
    (
        Standing::AtStart,
        "`mapEntries`: tables have other names; `tortie show capacity` has them",
        &[
            ("BPFMapSizeNATFrontend", "bpfMapSizeNATFrontend"),
            ("BPFMapSizeNATBackend", "bpfMapSizeNATBackend"),
            ("BPFMapSizeNATAffinity", "bpfMapSizeNATAffinity"),
            ("BPFMapSizeRoute", "bpfMapSizeRoute"),
            ("BPFMapSizeIPSets", "bpfMapSizeIPSets"),
            ("BPFMapSizeIfState", "bpfMapSizeIfState"),
        ],
    ),
    (
        Standing::AtStart,
        "`mapEntries` CONNTRACK: a table grows at a start",
        &[("BPFMapSizeConntrack", "bpfMapSizeConntrack")],
    ),
    (Standing::AtStart, "`attach`: programs are moved at a start", &[("BPFAttachType", "bpfAttachType")]),
    (
        Standing::AtStart,
        "`cgroup`: programs of sockets are attached at a start",
        &[("CgroupV2Path", "cgroupV2Path"), ("DebugBPFCgroupV2", "")],
    ),
    (Standing::AtStart, "`datastore`", &[("DatastoreType", "")]),
    (
        Standing::AtStart,
        "`etcdEndpoints` and the settings beside it",
        &[
            ("EtcdAddr", ""),
            ("EtcdScheme", ""),
            ("EtcdKeyFile", ""),
            ("EtcdCertFile", ""),
            ("EtcdCaFile", ""),
            ("EtcdEndpoints", ""),
        ],
    ),
    (Standing::AtStart, "`node`", &[("FelixHostname", "")]),
    (
        Standing::AtStart,
        "`policyLogRate`: a constant of the programs",
        &[("LogActionRateLimit", "logActionRateLimit"), ("LogActionRateLimitBurst", "logActionRateLimitBurst")],
    ),
    (
        Standing::AtStart,
        "`healthAddress`",
        &[("HealthEnabled", "healthEnabled"), ("HealthPort", "healthPort"), ("HealthHost", "healthHost")],
    ),
    (
        Standing::AtStart,
        "`metricsAddress`",
        &[
            ("PrometheusMetricsEnabled", "prometheusMetricsEnabled"),
            ("PrometheusMetricsHost", "prometheusMetricsHost"),
            ("PrometheusMetricsPort", "prometheusMetricsPort"),
        ],
    ),
    (Standing::AtStart, "`mtu`, else the uplink's", &[("MTUIfacePattern", "mtuIfacePattern")]),
    (
        Standing::NotYet,
        "readiness has one timeout",
        &[
            ("DataplaneWatchdogTimeout", "dataplaneWatchdogTimeout"),
            ("HealthTimeoutOverrides", "healthTimeoutOverrides"),
        ],
    ),
    (
        Standing::NotYet,
        "comes with encryption between nodes",
        &[
            ("WireguardEnabled", "wireguardEnabled"),
            ("WireguardEnabledV6", "wireguardEnabledV6"),
            ("WireguardListeningPort", "wireguardListeningPort"),
            ("WireguardListeningPortV6", "wireguardListeningPortV6"),
            ("WireguardRoutingRulePriority", "wireguardRoutingRulePriority"),
            ("WireguardInterfaceName", "wireguardInterfaceName"),
            ("WireguardInterfaceNameV6", "wireguardInterfaceNameV6"),
            ("WireguardMTU", "wireguardMTU"),
            ("WireguardMTUV6", "wireguardMTUV6"),
            ("WireguardHostEncryptionEnabled", "wireguardHostEncryptionEnabled"),
            ("WireguardPersistentKeepAlive", "wireguardKeepAlive"),
            ("WireguardThreadingEnabled", "wireguardThreadingEnabled"),
            ("PrometheusWireGuardMetricsEnabled", "prometheusWireGuardMetricsEnabled"),
        ],
    ),
    (
        Standing::NotYet,
        "tunnels end where IPAM and the nodes' own objects say",
        &[
            ("BPFOverlayHostSourceIP", "bpfOverlayHostSourceIP"),
            ("IPv4VXLANTunnelAddr", ""),
            ("IPv6VXLANTunnelAddr", ""),
            ("VXLANTunnelMACAddr", ""),
            ("VXLANTunnelMACAddrV6", ""),
            ("IpInIpTunnelAddr", ""),
        ],
    ),
    (
        Standing::NotYet,
        "fragments that come before their first are dropped",
        &[
            ("BPFIPFragTimeout", "bpfIPFragTimeout"),
            ("BPFIPFragmentReassemblyEnabled", "bpfIPFragmentReassemblyEnabled"),
        ],
    ),
    (Standing::NotYet, "the uplink must have a MAC", &[("BPFL3IfacePattern", "bpfL3IfacePattern")]),
    (
        Standing::NotYet,
        "which sockets reach services is `cgroup` alone",
        &[
            ("BPFConnectTimeLoadBalancingEnabled", "bpfConnectTimeLoadBalancingEnabled"),
            ("BPFConnectTimeLoadBalancing", "bpfConnectTimeLoadBalancing"),
            ("BPFHostNetworkedNATWithoutCTLB", "bpfHostNetworkedNATWithoutCTLB"),
        ],
    ),
    (
        Standing::NotYet,
        "services of who is outside are answered by way of the node that was asked",
        &[("BPFExternalServiceMode", "bpfExternalServiceMode"), ("BPFDSROptoutCIDRs", "bpfDSROptoutCIDRs")],
    ),
    (Standing::NotYet, "ports are chosen among all", &[("BPFPSNATPorts", "bpfPSNATPorts")]),
    (
        Standing::NotYet,
        "sources at the uplink are held against this node's own and its pods'",
        &[("BPFEnforceRPF", "bpfEnforceRPF")],
    ),
    (Standing::NotYet, "every service is translated", &[("BPFExcludeCIDRsFromNAT", "bpfExcludeCIDRsFromNAT")]),
    (
        Standing::NotYet,
        "flows are not reported yet",
        &[
            ("BPFExportBufferSizeMB", "bpfExportBufferSizeMB"),
            ("FlowLogsFlushInterval", "flowLogsFlushInterval"),
            ("FlowLogsCollectorDebugTrace", "flowLogsCollectorDebugTrace"),
            ("FlowLogsGoldmaneServer", "flowLogsGoldmaneServer"),
            ("FlowLogsLocalReporter", "flowLogsLocalReporter"),
            ("FlowLogsPolicyEvaluationMode", "flowLogsPolicyEvaluationMode"),
        ],
    ),
    (
        Standing::NotYet,
        "a field of packets is not marked yet",
        &[("IstioAmbientMode", "istioAmbientMode"), ("IstioDSCPMark", "istioDSCPMark")],
    ),
    (
        Standing::NotYet,
        "the agents of a cluster ask its API server",
        &[
            ("TyphaAddr", ""),
            ("TyphaK8sServiceName", ""),
            ("TyphaK8sNamespace", ""),
            ("TyphaReadTimeout", ""),
            ("TyphaWriteTimeout", ""),
            ("TyphaKeyFile", ""),
            ("TyphaCertFile", ""),
            ("TyphaCAFile", ""),
            ("TyphaCN", ""),
            ("TyphaURISAN", ""),
        ],
    ),
    (Standing::NotYet, "both families are served", &[("Ipv6Support", "ipv6Support")]),
    (
        Standing::NotYet,
        "comes with routes between nodes",
        &[
            ("DeviceRouteSourceAddress", "deviceRouteSourceAddress"),
            ("DeviceRouteSourceAddressIPv6", "deviceRouteSourceAddressIPv6"),
            ("DeviceRouteProtocol", "deviceRouteProtocol"),
            ("RemoveExternalRoutes", "removeExternalRoutes"),
            ("ProgramClusterRoutes", "programClusterRoutes"),
            ("RouteSource", "routeSource"),
            ("RouteTableRange", "routeTableRange"),
            ("RouteTableRanges", "routeTableRanges"),
            ("RouteSyncDisabled", "routeSyncDisabled"),
            ("IPv4NormalRoutePriority", "ipv4NormalRoutePriority"),
            ("IPv4ElevatedRoutePriority", "ipv4ElevatedRoutePriority"),
            ("IPv6NormalRoutePriority", "ipv6NormalRoutePriority"),
            ("IPv6ElevatedRoutePriority", "ipv6ElevatedRoutePriority"),
            ("LiveMigrationRouteConvergenceTime", "liveMigrationRouteConvergenceTime"),
        ],
    ),
    (Standing::NotYet, "policy by application layer comes later", &[("PolicySyncPathPrefix", "policySyncPathPrefix")]),
    (Standing::NotYet, "pods' interfaces are `cali*`", &[("InterfacePrefix", "interfacePrefix")]),
    (Standing::NotYet, "any interface may have a host endpoint", &[("InterfaceExclude", "interfaceExclude")]),
    (Standing::NotYet, "lines of Log rules have one form", &[("LogPrefix", "logPrefix")]),
    (
        Standing::NotYet,
        "the log goes to standard error",
        &[("LogFilePath", "logFilePath"), ("LogSeverityFile", "logSeverityFile"), ("LogSeveritySys", "logSeveritySys")],
    ),
    (
        Standing::NotYet,
        "what pods send in IPIP or VXLAN is dropped, as by Calico where nothing is set",
        &[
            ("AllowVXLANPacketsFromWorkloads", "allowVXLANPacketsFromWorkloads"),
            ("AllowIPIPPacketsFromWorkloads", "allowIPIPPacketsFromWorkloads"),
        ],
    ),
    (
        Standing::NotYet,
        "a packet to an address of services that no service has goes the way of any other",
        &[("ServiceLoopPrevention", "serviceLoopPrevention")],
    ),
    (
        Standing::NotYet,
        "metrics are plain HTTP",
        &[
            ("PrometheusMetricsCAFile", "prometheusMetricsCAFile"),
            ("PrometheusMetricsCertFile", "prometheusMetricsCertFile"),
            ("PrometheusMetricsKeyFile", "prometheusMetricsKeyFile"),
            ("PrometheusMetricsClientAuth", "prometheusMetricsClientAuth"),
        ],
    ),
    (
        Standing::Meaningless,
        "what leaves by the uplink is translated, and nothing else",
        &[("IptablesNATOutgoingInterfaceFilter", "iptablesNATOutgoingInterfaceFilter")],
    ),
    (
        Standing::Meaningless,
        "there is one dataplane",
        &[
            ("UseInternalDataplaneDriver", "useInternalDataplaneDriver"),
            ("DataplaneDriver", "dataplaneDriver"),
            ("BPFEnabled", "bpfEnabled"),
        ],
    ),
    (
        Standing::Meaningless,
        "there are no chains",
        &[
            ("NFTablesMode", "nftablesMode"),
            ("NFTablesFlowTableOffload", "nftablesFlowTableOffload"),
            ("NFTablesFlowTableDataIfacePattern", "nftablesFlowTableDataIfacePattern"),
            ("IptablesBackend", "iptablesBackend"),
            ("IptablesRefreshInterval", "iptablesRefreshInterval"),
            ("IptablesPostWriteCheckIntervalSecs", "iptablesPostWriteCheckInterval"),
            ("IptablesLockProbeIntervalMillis", "iptablesLockProbeInterval"),
            ("ChainInsertMode", "chainInsertMode"),
            ("IptablesFilterAllowAction", "iptablesFilterAllowAction"),
            ("IptablesMangleAllowAction", "iptablesMangleAllowAction"),
            ("IptablesMarkMask", "iptablesMarkMask"),
            ("DisableConntrackInvalidCheck", "disableConntrackInvalidCheck"),
            ("KubeNodePortRanges", "kubeNodePortRanges"),
            ("NftablesRefreshInterval", "nftablesRefreshInterval"),
            ("NftablesFilterAllowAction", "nftablesFilterAllowAction"),
            ("NftablesMangleAllowAction", "nftablesMangleAllowAction"),
            ("NftablesFilterDenyAction", "nftablesFilterDenyAction"),
            ("NftablesMarkMask", "nftablesMarkMask"),
        ],
    ),
    (
        Standing::Meaningless,
        "no global sysctl is changed",
        &[("BPFDisableUnprivileged", "bpfDisableUnprivileged"), ("BPFJITHardening", "bpfJITHardening")],
    ),
    (
        Standing::Meaningless,
        "the programs log only where they were built to",
        &[
            ("BPFLogLevel", "bpfLogLevel"),
            ("BPFConntrackLogLevel", "bpfConntrackLogLevel"),
            ("BPFLogFilters", "bpfLogFilters"),
            ("BPFCTLBLogFilter", "bpfCTLBLogFilter"),
        ],
    ),
    (
        Standing::Meaningless,
        "flows are looked up, whoever opened them; the programs forget them by themselves",
        &[
            ("BPFConntrackCleanupMode", "bpfConntrackMode"),
            ("BPFMapSizePerCPUConntrack", "bpfMapSizePerCpuConntrack"),
            ("BPFMapSizeConntrackScaling", "bpfMapSizeConntrackScaling"),
            ("BPFMapSizeConntrackCleanupQueue", "bpfMapSizeConntrackCleanupQueue"),
            ("BPFHostConntrackBypass", "bpfHostConntrackBypass"),
        ],
    ),
    (
        Standing::Meaningless,
        "kube-proxy's rules are its own to take away",
        &[("BPFKubeProxyIptablesCleanupEnabled", "bpfKubeProxyIptablesCleanupEnabled")],
    ),
    (
        Standing::Meaningless,
        "a change of services is in force at once",
        &[("BPFKubeProxyMinSyncPeriod", "bpfKubeProxyMinSyncPeriod")],
    ),
    (
        Standing::Meaningless,
        "each service has its own `healthCheckNodePort`; the agent's health is `healthAddress`",
        &[("BPFKubeProxyHealthzPort", "bpfKubeProxyHealthzPort")],
    ),
    (Standing::Meaningless, "no connection mark is needed", &[("BPFExtToServiceConnmark", "bpfExtToServiceConnmark")]),
    (
        Standing::Meaningless,
        "rules are counted always, and `tortie explain` asks the kernel",
        &[("BPFPolicyDebugEnabled", "bpfPolicyDebugEnabled"), ("BPFProfiling", "bpfProfiling")],
    ),
    (
        Standing::Meaningless,
        "every packet is tracked once",
        &[("BPFForceTrackPacketsFromIfaces", "bpfForceTrackPacketsFromIfaces")],
    ),
    (
        Standing::Meaningless,
        "nothing is switched off at interfaces",
        &[("BPFDisableGROForIfaces", "bpfDisableGROForIfaces")],
    ),
    (
        Standing::Meaningless,
        "packets are handed over in the fastest way that each destination allows",
        &[("BPFRedirectToPeer", "bpfRedirectToPeer")],
    ),
    (
        Standing::Meaningless,
        "the kernel says what changes, and all is looked at twice a second",
        &[
            ("RouteRefreshInterval", "routeRefreshInterval"),
            ("InterfaceRefreshInterval", "interfaceRefreshInterval"),
            ("XDPRefreshInterval", "xdpRefreshInterval"),
        ],
    ),
    (
        Standing::Meaningless,
        "forwarding is set where it is needed, at interfaces alone",
        &[("IPForwarding", "ipForwarding")],
    ),
    (
        Standing::Meaningless,
        "what the kernel can is tried at the start",
        &[("FeatureDetectOverride", "featureDetectOverride"), ("FeatureGates", "featureGates")],
    ),
    (
        Standing::Meaningless,
        "there are no IP sets",
        &[("IpsetsRefreshInterval", "ipsetsRefreshInterval"), ("MaxIpsetSize", "maxIpsetSize")],
    ),
    (Standing::Meaningless, "netlink has a bound of its own", &[("NetlinkTimeoutSecs", "netlinkTimeout")]),
    (
        Standing::Meaningless,
        "this is not OpenStack",
        &[
            ("MetadataAddr", "metadataAddr"),
            ("MetadataPort", "metadataPort"),
            ("OpenstackRegion", "openstackRegion"),
            ("ReportingIntervalSecs", "reportingInterval"),
            ("ReportingTTLSecs", "reportingTTL"),
            ("EndpointReportingEnabled", "endpointReportingEnabled"),
            ("EndpointReportingDelaySecs", "endpointReportingDelay"),
        ],
    ),
    (
        Standing::Meaningless,
        "the log has filters of its own: `log`",
        &[("LogDebugFilenameRegex", "logDebugFilenameRegex"), ("DebugDisableLogDropping", "debugDisableLogDropping")],
    ),
    (Standing::Meaningless, "this is not Windows", &[("WindowsManageFirewallRules", "windowsManageFirewallRules")]),
    (Standing::Meaningless, "clouds are not asked", &[("AWSSrcDstCheck", "awsSrcDstCheck")]),
    (
        Standing::Meaningless,
        "an ADD is answered only when policy is in force: nobody has to wait for a file",
        &[("EndpointStatusPathPrefix", "endpointStatusPathPrefix")],
    ),
    (
        Standing::Meaningless,
        "what runs is Rust",
        &[
            ("PrometheusGoMetricsEnabled", "prometheusGoMetricsEnabled"),
            ("GoGCThreshold", "goGCThreshold"),
            ("GoMemoryLimitMB", "goMemoryLimitMB"),
            ("GoMaxProcs", "goMaxProcs"),
        ],
    ),
    (Standing::Meaningless, "there always", &[("PrometheusProcessMetricsEnabled", "prometheusProcessMetricsEnabled")]),
    (
        Standing::Meaningless,
        "nobody is told",
        &[
            ("UsageReportingEnabled", "usageReportingEnabled"),
            ("UsageReportingInitialDelaySecs", "usageReportingInitialDelay"),
            ("UsageReportingIntervalSecs", "usageReportingInterval"),
            ("ClusterGUID", ""),
            ("ClusterType", ""),
            ("CalicoVersion", ""),
            ("Variant", ""),
        ],
    ),
    (
        Standing::Meaningless,
        "for tests of Felix",
        &[
            ("DebugMemoryProfilePath", "debugMemoryProfilePath"),
            ("DebugCPUProfilePath", ""),
            ("DebugSimulateCalcGraphHangAfter", "debugSimulateCalcGraphHangAfter"),
            ("DebugSimulateDataplaneHangAfter", "debugSimulateDataplaneHangAfter"),
            ("DebugSimulateDataplaneApplyDelay", "debugSimulateDataplaneApplyDelay"),
            ("DebugPanicAfter", ""),
            ("DebugSimulateDataRace", ""),
            ("DebugHost", "debugHost"),
            ("DebugPort", "debugPort"),
        ],
    ),
    (
        Standing::Meaningless,
        "sidecars are not looked for",
        &[("SidecarAccelerationEnabled", "sidecarAccelerationEnabled")],
    ),
    (
        Standing::Meaningless,
        "untracked rules are asked at the interface itself, without XDP",
        &[("XDPEnabled", "xdpEnabled"), ("GenericXDPEnabled", "genericXDPEnabled")],
    ),
    (Standing::Meaningless, "pods ask the agent for their MTU", &[("RequireMTUFile", "requireMTUFile")]),
    (
        Standing::Meaningless,
        "Maglev tables follow the endpoints there are",
        &[
            ("BPFMaglevMaxEndpointsPerService", "bpfMaglevMaxEndpointsPerService"),
            ("BPFMaglevMaxServices", "bpfMaglevMaxServices"),
        ],
    ),
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::{collections::BTreeSet, fs, path::Path};

    /// The page's part of a standing.
    fn lines(standing: Standing) -> Vec<String> {
        let line = |Parameter { name, field, note, .. }: Parameter| {
            let field = if field.is_empty() { String::new() } else { format!("`{field}`") };
            format!("| {name} | {field} | {note} |")
        };
        all().filter(|parameter| parameter.standing == standing).map(line).collect()
    }

    #[test]
    fn every_parameter_of_felix_stands_here_once() {
        let names: BTreeSet<_> = all().map(|parameter| parameter.name).collect();
        assert_eq!((names.len(), all().count()), (218, 218));
        let fields: Vec<_> = all().map(|parameter| parameter.field).filter(|field| !field.is_empty()).collect();
        assert_eq!(fields.iter().collect::<BTreeSet<_>>().len(), fields.len());
    }

    #[test]
    fn the_page_says_what_is_said_here_and_nothing_else() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/felix.md");
        let page = fs::read_to_string(&path).expect("the page is there");
        let parts: Vec<&str> = page.split("\n## ").skip(1).collect();
        let standings = [Standing::Honoured, Standing::AtStart, Standing::NotYet, Standing::Meaningless];
        assert_eq!(parts.len(), standings.len(), "a part for each standing");
        for (standing, part) in standings.into_iter().zip(parts) {
            let rows: Vec<_> = part.lines().filter(|line| line.starts_with("| ")).skip(1).map(str::to_owned).collect();
            assert_eq!(rows, lines(standing), "{standing:?}: {}", path.display());
        }
    }
}

//! What can go wrong, and which tests show what the proxy does about it: the map behind
//! `docs/threats.md`, which `RINGBEARER_WRITE=1 cargo test --test it threats::` runs and writes.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A threat: its number, what it is, and the tests. Those of `tests/it` by module, those beside the
/// code as `src/…`, models as `tests/protocol/…`.
type Threat = (u8, &'static str, &'static [&'static str]);

/// Threats that nothing is shown about yet.
const OPEN: &[u8] = &[];

#[rustfmt::skip]
const THREATS: &[Threat] = &[
    (1, "A crash between the token answer and the store", &[
        "crash::a_kill_between_the_token_answer_and_its_storage_costs_no_session",
        "crash::a_kill_right_after_storage_and_before_first_use_costs_no_token_request",
        "crash::twenty_kills_at_random_instants_of_a_renewal_cost_no_session",
        "tests/protocol/with_a_grace_period_no_two_mishaps_lose_a_session",
    ]),
    (2, "Replicas race to renew one session", &[
        "replicas::four_replicas_refresh_a_session_once_per_generation",
        "replicas::four_replicas_on_one_redis_refresh_once_per_generation",
        "redis_cluster::four_replicas_on_one_cluster_refresh_once_per_generation",
        "tests/protocol/three_processes_renew_once_per_generation",
    ]),
    (3, "The holder of a lease stands still past its end", &[
        "stopped::a_replica_that_stands_still_in_any_phase_costs_no_session_in_files",
        "stopped::a_replica_that_stands_still_in_any_phase_costs_no_session_in_redis",
        "src/store/file/tests/refuses_a_late_write_by_generation",
    ]),
    (4, "A held lease is taken for a broken store, or the other way round", &[
        "outages::a_lease_that_somebody_holds_is_no_outage",
        "outages::a_server_that_stands_still_is_waited_for",
        "redis::a_server_that_stands_still_is_an_error_within_seconds_and_names_it",
    ]),
    (5, "The store cannot be reached", &[
        "admin::an_unusable_store_degrades_and_heals_while_cached_tokens_serve",
        "outages::a_network_that_is_cut_for_ten_minutes_costs_nothing_while_the_token_lives",
        "lifecycle_errors::without_a_store_no_token_is_requested_and_the_cached_one_is_used_to_its_end",
    ]),
    (6, "A disk that is full or read-only", &[
        "store_trouble::on_a_full_disk_no_token_is_requested_until_there_is_room",
        "store_trouble::a_disk_that_fills_up_after_the_probe_costs_no_second_token_request",
        "store_trouble::on_a_read_only_file_system_a_stored_token_serves_and_none_is_requested",
    ]),
    (7, "A session file that is torn or changed", &[
        "src/store/document/tests/notices_every_truncation_and_every_flipped_byte",
        "src/store/file/tests/falls_back_to_the_previous_copy_wherever_the_file_was_cut",
        "src/store/file/tests/survives_a_crash_between_the_two_renames",
        "fuzzed::any_stored_document_is_a_session_or_refused",
    ]),
    (8, "Other users read or plant session files", &[
        "src/store/file/tests/saves_and_loads_with_tight_modes",
        "src/store/file/tests/hostile/a_link_in_place_of_a_session_is_refused_wherever_it_leads",
        "src/store/file/tests/hostile/a_session_that_others_may_read_or_write_is_refused",
        "src/store/file/tests/hostile/another_users_file_and_directory_are_refused",
        "store_trouble::no_umask_makes_the_files_more_or_less_than_ours",
    ]),
    (9, "A herd at expiry", &[
        "herd::a_thousand_callers_of_a_cold_start_cost_one_token_request",
        "herd::a_token_revoked_under_load_costs_one_renewal_and_no_client_notices",
        "replicas::five_hundred_clients_of_four_replicas_cost_one_token_request_per_generation",
    ]),
    (10, "The clock is set, or the machine sleeps", &[
        "src/token/keeper/tests/clock/after_a_suspend_no_dead_token_is_handed_out_before_anybody_has_noticed",
        "src/token/keeper/tests/clock/a_clock_set_back_makes_no_token_live_longer_and_delays_no_renewal",
        "fallback::a_refresh_token_that_ended_while_the_machine_slept_leads_to_the_jwt",
    ]),
    (11, "401 for ever", &[
        "replay::a_401_for_ever_costs_two_sends_and_one_renewal",
        "lifecycle_errors::a_401_that_no_token_cures_is_sent_once_and_renews_nothing",
        "lifecycle_errors::when_everything_is_refused_tokens_are_requested_ever_more_slowly",
    ]),
    (12, "Requests inside a penalty prolong it", &[
        "lifecycle_errors::nothing_is_sent_to_the_token_endpoint_before_retry_after_is_over",
        "src/token/keeper/tests/nothing_is_sent_for_the_application_inside_a_penalty",
        "throttle::nothing_of_the_group_is_sent_until_the_very_end_of_the_penalty",
        "throttle::a_replay_is_not_sent_into_a_penalty",
        "throttle::another_group_and_another_identity_flow_on",
        "throttle::clients_that_repeat_at_once_never_leave_the_penalty_by_themselves",
        "throttle::the_same_clients_leave_it_through_the_proxy_after_one_penalty_each_time",
        "throttle_shared::a_penalty_that_one_replica_meets_holds_all_of_them",
        "throttle_reload::a_reload_within_a_penalty_sends_nothing_until_it_is_over",
    ]),
    (13, "Errors of the token endpoint are misread", &[
        "token_errors::every_row_of_the_guides_table_is_kept_to",
        "lifecycle_errors::a_500_is_tried_again_three_times_ten_seconds_apart",
        "src/oauth/response/tests/tells_refusals_apart_by_what_to_do",
    ]),
    (14, "A session is revoked or over for good", &[
        "lifecycle_errors::a_refused_credential_is_said_and_not_tried_again",
        "fallback::a_session_that_was_ended_at_the_server_is_replaced_and_no_client_fails",
        "src/token/keeper/tests/a_lost_identity_says_so_at_once_and_leaves_the_others_alone",
    ]),
    (15, "A token answer that is malformed", &[
        "malformed::no_malformed_answer_to_a_jwt_replaces_the_token_in_use",
        "malformed::no_malformed_answer_to_a_refresh_costs_the_session",
        "fuzzed::any_answer_of_the_token_endpoint_is_a_token_set_or_an_error",
    ]),
    (16, "The client that caused a renewal goes away", &[
        "herd::the_renewal_goes_on_when_the_client_that_caused_it_goes_away",
        "src/token/keeper/tests/a_caller_that_goes_away_ends_no_renewal",
    ]),
    (17, "A request is sent again that may have been carried out", &[
        "replay::replays_a_chunked_post_once_with_its_trailers",
        "replay::replays_a_multipart_post_once",
        "connections::a_post_whose_connection_drops_is_never_sent_again",
        "src/proxy/replay/tests/token_trouble_is_replayed",
    ]),
    (18, "A kept connection dies under a request", &[
        "connections::ten_thousand_posts_over_connections_that_close_unannounced_send_no_message_twice",
        "connections::a_get_is_sent_again_once_if_a_kept_connection_died",
    ]),
    (19, "Kept content uses up the memory", &[
        "replay::content_over_the_limit_streams_once_and_the_renewal_happens_meanwhile",
        "replay::content_beyond_the_memory_of_all_requests_is_not_replayed",
        "src/proxy/body/tests/the_shared_account_is_never_overdrawn",
        "uploads::uploads_that_are_refused_together_stay_within_the_memory_for_replays",
        "floods::content_in_chunks_of_a_byte_is_not_kept_for_less_than_it_costs",
    ]),
    (20, "A cut-off answer looks whole", &[
        "connections::a_truncated_content_does_not_look_whole",
    ]),
    (21, "Request smuggling by ambiguous framing", &[
        "framing::content_is_framed_anew_and_never_by_two_rules",
        "framing::anything_but_one_host_is_refused",
        "src/proxy/access/tests/a_transfer_coding_that_would_stay_on_the_content_is_refused",
        "attacks::no_attack_on_framing_makes_two_sides_see_different_requests",
        "attacks::an_attack_in_two_pieces_comes_to_the_same",
        "attacks::an_attack_where_http2_could_come_too_comes_to_the_same",
        "src/server/framing/tests/a_content_is_framed_once",
        "src/server/framing/tests/what_passes_is_read_alike_by_the_parser_behind",
        "fuzzed::framing_is_read_alike_however_its_bytes_are_cut",
    ]),
    (22, "Smuggling by upgrades", &[
        "framing::an_offer_of_h2c_is_dropped_and_what_follows_is_the_next_request",
        "hosts::what_is_sent_before_the_agreement_is_never_taken_for_a_request",
        "hosts::a_refused_websocket_is_an_answer_and_no_tunnel",
        "src/server/framing/tests/nothing_passes_between_a_wish_to_switch_and_its_answer",
    ]),
    (23, "An early answer leaves content behind on the connection", &[
        "replay::an_early_401_is_healed_while_the_upload_is_still_coming",
        "connections::a_client_that_breaks_its_upload_off_leaves_nothing_behind",
        "guard::a_broken_content_is_never_completed_upstream",
        "guard::an_answer_before_the_end_of_an_upload_is_not_lost",
        "guard::a_client_that_sends_on_after_its_last_answer_is_cut_in_the_end",
    ]),
    (24, "Hop-by-hop fields pass, or take the token away", &[
        "framing::no_nomination_removes_what_the_proxy_sets",
        "framing::trace_and_connect_are_refused",
        "src/proxy/headers/tests/hop_by_hop_fields_end_here",
        "fuzzed::fields_of_any_kind_leave_one_credential_and_nothing_hop_by_hop",
    ]),
    (25, "Reserved fields pass in another spelling", &[
        "src/proxy/headers/tests/forwarding_fields_and_our_own_are_not_taken_from_a_client_in_any_spelling",
        "src/proxy/headers/tests/the_identity_that_a_client_names_is_found_and_does_not_pass",
        "random_requests::ten_thousand_random_requests_change_in_nothing_that_the_page_does_not_list",
    ]),
    (26, "A client chooses the upstream", &[
        "framing::no_target_and_no_host_chooses_another_upstream",
        "src/proxy/exchange/tests/only_path_and_query_of_a_target_remain_and_keep_their_bytes",
        "fuzzed::no_target_leads_elsewhere_than_it_says",
    ]),
    (27, "What was judged is not what is sent", &[
        "fidelity::two_thousand_odd_targets_arrive_to_the_byte",
        "policy::of_two_thousand_variants_only_what_is_allowed_arrives_and_all_of_that",
        "policy::of_two_thousand_variants_none_that_means_what_is_denied_arrives",
        "policy::recordings_are_kept_on_every_host_and_under_every_prefix",
        "fuzzed::a_policy_lets_nothing_pass_that_means_what_it_denies",
    ]),
    (28, "A method in disguise", &[
        "policy::forty_ways_to_mean_another_method_are_refused_by_a_policy_and_pass_without",
        "policy::a_login_at_the_proxy_is_as_bound_as_its_key_and_gets_no_socket_either",
    ]),
    (29, "Tokens in the query", &[
        "framing::a_token_in_the_query_is_taken_out",
        "src/proxy/access/tests/a_token_in_the_query_is_taken_out_and_the_rest_kept_to_the_byte",
        "canary::no_secret_leaves_by_text_logs_answers_commands_or_files",
    ]),
    (30, "A redirect or the environment leads the token astray", &[
        "redirects::no_redirect_of_ringcentrals_is_followed_with_the_token",
        "malformed::no_malformed_answer_to_a_jwt_replaces_the_token_in_use",
        "http2::proxies_in_the_environment_are_ignored",
    ]),
    (31, "The token endpoints are called with the injected identity", &[
        "framing::no_spelling_of_a_token_endpoint_reaches_ringcentral_but_wstoken_does",
        "src/proxy/access/tests/no_spelling_of_a_token_endpoint_passes",
    ]),
    (32, "A proxy that is its own upstream", &[
        "framing::a_request_that_comes_back_is_cut",
        "src/settings/origin/tests/a_listener_serves_the_origins_that_lead_to_it",
        "src/proxy/headers/tests/a_loop_is_told_from_another_proxy",
    ]),
    (33, "Web pages call through the browser, by DNS rebinding too", &[
        "browsers::nothing_that_another_sites_page_can_send_goes_on",
        "browsers::a_name_that_leads_here_is_not_enough",
        "pages::no_page_gets_anything_through_unless_it_is_named",
        "pages::a_page_whose_own_name_is_made_to_lead_here_gets_nothing_through",
        "pages::no_other_name_of_this_machine_lets_a_strange_page_through",
        "peers::no_page_gets_in_through_the_browser_of_a_network_by_a_name_of_its_own",
    ]),
    (34, "Strangers in the network call", &[
        "selection::with_clients_every_request_shows_a_key_and_acts_as_no_other_than_it_may",
        "src/settings/tests/refused/a_bad_configuration_is_refused_with_the_cure_and_without_its_secrets",
        "src/key/tests/a_digest_is_the_one_that_sha256sum_prints_and_opens_to_its_key_only",
        "peers::a_stranger_is_kept_out_and_told_what_would_let_it_in",
        "peers::a_certificate_is_known_by_exactly_its_names",
        "peers::where_certificates_are_required_nobody_gets_in_without",
        "peers::a_user_of_this_machine_is_known_at_a_unix_socket_and_nowhere_else",
        "unix_sockets::a_socket_that_somebody_listens_on_is_refused_and_stays_theirs",
        "inbound_tls::a_ca_that_is_replaced_lets_in_nobody_of_before_not_even_by_a_resumed_session",
    ]),
    (35, "Identities get mixed up", &[
        "identities::four_thousand_interleaved_calls_of_two_identities_use_each_its_own_token",
        "selection::a_listener_a_field_or_a_host_says_as_whom",
        "paths::a_client_is_bound_whatever_the_path_says",
        "never_mixed::thirty_thousand_calls_over_shared_connections_carry_each_their_own_identitys_token",
    ]),
    (36, "Fields that anybody can send decide", &[
        "src/proxy/headers/tests/forwarding_fields_and_our_own_are_not_taken_from_a_client_in_any_spelling",
        "admin::without_the_table_nobody_listens_for_operators",
        "peers::a_network_lets_in_and_the_narrowest_counts",
        "peers::a_key_says_more_than_a_network_and_a_wrong_one_is_refused",
    ]),
    (37, "The admin side is open, or its figures grow without end", &[
        "admin::strangers_and_web_pages_are_refused_whatever_they_ask_for",
        "admin::without_a_key_every_change_is_refused_and_the_cure_named",
        "audit::operators_changes_and_refusals_are_noted_and_looks_are_not",
        "src/admin/figures/tests/a_thousand_added_identities_have_as_many_series_as_a_hundred",
        "metrics::a_hundred_thousand_paths_have_as_many_series_as_one",
        "status_page::changes_are_made_from_the_page_with_the_key_only",
        "status_page::the_page_comes_with_a_policy_and_other_pages_do_not_get_at_it",
    ]),
    (38, "Secrets get into logs, errors, figures or files", &[
        "canary::no_secret_leaves_by_text_logs_answers_commands_or_files",
        "canary::no_secret_leaves_by_json_logs_or_over_h2",
        "canary::a_secret_in_the_wrong_place_of_a_configuration_is_not_repeated",
        "canary::the_password_of_a_store_that_refuses_it_is_not_repeated",
        "canary::the_search_would_find_them",
        "dumps::memory_is_nobodys_to_read_or_keep",
        "src/telemetry/tests/a_panic_tells_where_and_nothing_of_values",
        "src/settings/tests/refused/no_slip_makes_an_error_quote_a_secret",
    ]),
    (39, "The login endpoints hand out RingCentral's tokens", &[
        "facade::every_sdk_logs_in_as_it_does_at_ringcentral_and_never_sees_its_token",
        "src/proxy/facade/pass/tests/no_changed_or_cut_token_is_one",
        "src/proxy/facade/pass/tests/no_kind_passes_for_another",
        "fuzzed::no_token_of_the_facades_is_made_up",
    ]),
    (40, "Secrets on the command line; TLS that trusts anybody", &[
        "threats::no_flag_takes_a_secret_and_no_switch_turns_tls_off",
        "run::a_command_reaches_ringcentral_and_has_nothing_to_give_away",
        "http2::an_unknown_ca_is_refused_and_said_so",
        "redis_tls::a_certificate_of_somebody_else_is_not_trusted",
    ]),
    (41, "Peers that are slow or silent", &[
        "connections::clients_that_go_away_or_never_read_cost_only_their_own_connection",
        "connections::an_upstream_that_never_answers_is_given_up",
        "hosts::a_silent_websocket_ends_and_one_that_speaks_does_not",
        "guard::a_head_that_has_begun_comes_to_its_end_in_time_or_gets_408",
        "guard::a_head_that_drips_gets_no_more_time_and_the_next_one_all_of_it",
        "guard::a_connection_that_was_opened_ahead_may_wait_for_its_first_request",
        "slow::silent_sockets_go_when_they_have_idled",
        "slow::half_a_preface_is_not_waited_for_longer_than_a_head",
        "slow::slow_heads_get_408_and_their_makers_are_not_kept",
        "slow::a_whole_preface_without_a_request_idles",
        "slow::slow_contents_get_408_and_reach_nobody_whole",
        "slow::slow_readers_are_cut_off_on_both_sides",
        "slow::readers_that_stop_at_any_place_of_pipelined_answers_are_cut_off",
        "slow::nothing_is_kept_for_a_reader_that_is_cut_off",
        "limits::a_tls_handshake_that_stops_is_ended_in_its_time",
        "limits::a_client_that_chose_http2_has_to_begin_it",
        "limits::a_client_that_trickles_gets_408_too",
        "limits::an_answer_that_stands_still_is_cut_off_and_one_that_moves_is_not",
        "limits::one_more_connection_than_there_is_room_for_is_told_so_and_closed",
        "floods::a_peer_that_answers_no_ping_is_given_up_with_its_requests",
    ]),
    (42, "HTTP/2 floods", &[
        "http2::clear_text_http2_is_taken_only_if_configured",
        "floods::requests_that_are_cancelled_at_once_end_the_connection_and_reach_nobody",
        "floods::fields_that_never_end_are_not_collected",
        "floods::a_client_that_opens_no_window_is_cut_off_with_all_its_streams",
        "floods::more_streams_than_allowed_are_refused_one_by_one",
        "floods::fields_that_unpack_to_a_hundred_times_their_size_end_the_connection",
        "floods::pings_are_answered_and_nothing_more",
        "floods::pings_whose_answers_nobody_reads_are_not_read_themselves",
        "floods::settings_are_acknowledged_and_nothing_more",
        "floods::empty_pieces_of_content_end_the_connection",
        "floods::content_in_frames_of_a_byte_ends_the_connection",
        "floods::window_updates_and_priorities_cost_nothing_but_reading_them",
    ]),
    (43, "A slow upstream fills the proxy with requests", &[
        "limits::one_more_request_than_may_be_under_way_is_told_when_to_come_again",
        "limits::requests_wait_for_an_upstream_connection_and_then_are_told",
        "limits::an_answer_that_stands_still_is_cut_off_and_one_that_moves_is_not",
        "limits::an_answer_that_is_still_being_read_is_under_way",
        "limits::requests_that_wait_for_a_token_are_bounded_with_the_others",
        "connections::an_upstream_that_never_answers_is_given_up",
    ]),
    (44, "The end cuts requests or a renewal off", &[
        "drain::sigterm_under_load_leaves_no_request_unanswered",
        "crash::sigterm_lets_a_renewal_and_the_requests_in_flight_finish",
        "admin::readiness_goes_before_the_last_request_is_answered_and_health_stays",
        "reload::a_hundred_reloads_under_load_lose_nothing",
        "reload::a_download_goes_on_through_a_reload_and_new_requests_do_not_wait_for_it",
        "supervised::a_passed_socket_loses_no_connection_from_one_process_to_the_next",
    ]),
    (45, "A bad configuration takes the service down", &[
        "commands::a_refused_configuration_exits_with_2_and_names_the_cure",
        "fuzzed::any_configuration_is_understood_or_refused_in_words",
        "reload::what_is_wrong_is_told_and_changes_nothing",
        "reload::a_credential_that_is_refused_does_not_replace_one_that_works",
        "inbound_tls::changed_files_are_noticed_and_unusable_ones_leave_all_as_it_is",
    ]),
    (46, "Dependencies with known holes", &[
        "threats::dependencies_are_locked_and_looked_up_by_ci",
    ]),
];

/// By what a test is run.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    It,
    Lib,
    Protocol,
}

/// The file that a test stands in, its function, and its kind.
fn place(test: &str) -> (PathBuf, &str, Kind) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (path, function) = test.rsplit_once(['/', ':']).unwrap_or_else(|| panic!("{test}"));
    let path = path.trim_end_matches(':');
    if path == "tests/protocol" {
        return (root.join("tests/protocol/main.rs"), function, Kind::Protocol);
    }
    if !path.starts_with("src/") {
        return (root.join(format!("tests/it/{path}.rs")), function, Kind::It);
    }
    // Its tests have a file of their own, or stand at the end of the file that they are about.
    let own = root.join(format!("{path}.rs"));
    let about = root.join(format!("{}.rs", path.trim_end_matches("/tests")));
    (if own.exists() { own } else { about }, function, Kind::Lib)
}

/// The name by which the test harness knows it.
fn name(test: &str) -> String {
    match place(test).2 {
        Kind::It => test.to_owned(),
        Kind::Lib => test.trim_start_matches("src/").replace('/', "::"),
        Kind::Protocol => test.trim_start_matches("tests/protocol/").to_owned(),
    }
}

fn rendered(outcome: impl Fn(&str) -> &'static str) -> String {
    let mut page = INTRODUCTION.to_owned();
    for (number, threat, tests) in THREATS {
        if tests.is_empty() {
            writeln!(page, "| {number} | {threat} | none yet | open |").unwrap();
        }
        for (index, test) in tests.iter().enumerate() {
            let row = if index == 0 { format!("{number} | {threat}") } else { " | ".to_owned() };
            writeln!(page, "| {row} | `{test}` | {} |", outcome(test)).unwrap();
        }
    }
    page
}

const INTRODUCTION: &str = "\
# What can go wrong, and what shows that it does not

Made from `tests/it/threats.rs` by `RINGBEARER_WRITE=1 cargo test --test it threats::`, which runs every
test that is named here. A test fails while this page is behind. Tests are in `tests/it` unless they
say where.

| # | threat | test | result |
|---|---|---|---|
";

fn named() -> impl Iterator<Item = &'static str> {
    THREATS.iter().flat_map(|(.., tests)| *tests).copied()
}

/// Runs all of them.
fn outcomes() -> BTreeMap<&'static str, &'static str> {
    let mut outcomes = BTreeMap::new();
    for kind in [Kind::It, Kind::Lib, Kind::Protocol] {
        let mut command = Command::new(std::env::current_exe().unwrap());
        if kind != Kind::It {
            let target = if kind == Kind::Lib { "--lib" } else { "--test=protocol" };
            command = Command::new(env!("CARGO"));
            command
                .args(["test", "--locked", target, "--"])
                .current_dir(env!("CARGO_MANIFEST_DIR"));
        }
        let ours: Vec<_> = named().filter(|test| place(test).2 == kind).collect();
        command.arg("--exact").args(ours.iter().map(|test| name(test)));
        let output = command.env_remove(WRITE).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        for test in ours {
            let passes = said.contains(&format!("test {} ... ok\n", name(test)));
            outcomes.insert(test, if passes { "passes" } else { "FAILS" });
        }
    }
    outcomes
}

/// Set, it has the page written.
const WRITE: &str = "RINGBEARER_WRITE";

#[test]
fn every_threat_has_its_row_and_every_row_tests_that_exist() {
    let numbers: Vec<_> = THREATS.iter().map(|(number, ..)| *number).collect();
    assert_eq!(numbers, (1..=46).collect::<Vec<_>>());
    let open = THREATS.iter().filter(|(.., tests)| tests.is_empty());
    assert_eq!(open.map(|(number, ..)| *number).collect::<Vec<_>>(), OPEN);
    named().for_each(assert_exists);
}

/// A test that is named somewhere is where its name says.
pub(crate) fn assert_exists(test: &str) {
    let (file, function, _) = place(test);
    let source =
        fs::read_to_string(&file).unwrap_or_else(|_| panic!("{test}: no {}", file.display()));
    assert!(source.contains(&format!("fn {function}(")), "{test} is not in {}", file.display());
}

#[test]
fn the_page_is_what_the_map_says() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/threats.md");
    if std::env::var_os(WRITE).is_some() {
        let outcomes = outcomes();
        fs::write(&page, rendered(|test| outcomes[test])).unwrap();
    }
    let written = fs::read_to_string(page).unwrap();
    assert!(
        written == rendered(|_| "passes"),
        "docs/threats.md is behind, or tells of a failure: {WRITE}=1 cargo test --test it threats::"
    );
}

#[test]
fn no_flag_takes_a_secret_and_no_switch_turns_tls_off() {
    let mut flags = Vec::new();
    for command in [
        "serve",
        "login",
        "logout",
        "export",
        "import",
        "demo",
        "check",
        "run",
        "status",
        "token",
        "keygen",
        "sandbox",
        "doctor",
        "reload",
        "completions",
        "man",
    ] {
        let output =
            Command::new(env!("CARGO_BIN_EXE_ringbearer")).args([command, "-h"]).output().unwrap();
        assert!(output.status.success(), "{command}");
        let help = String::from_utf8(output.stdout).unwrap();
        let lines = help.lines().map(str::trim_start).filter(|line| line.starts_with('-'));
        flags.extend(lines.map(|line| format!("{command}: {line}").to_lowercase()));
    }
    assert!(flags.len() > 50, "{flags:?}");
    for flag in &flags {
        let name = flag.split("  ").next().unwrap();
        let is_secret = ["secret", "jwt", "password", "-key"];
        assert!(!is_secret.iter().any(|it| name.contains(it)) || name.contains("file"), "{flag}");
        let is_lax = ["insecure", "verify", "no-tls", "skip", "danger"];
        assert!(!is_lax.iter().any(|it| name.contains(it)), "{flag}");
    }
    let example = include_str!("../../proxy.example.toml").to_lowercase();
    let keys =
        example.lines().filter_map(|line| Some(line.trim_start_matches("# ").split_once(" = ")?.0));
    for key in keys {
        assert!(
            !["insecure", "verify", "skip", "danger"].iter().any(|it| key.contains(it)),
            "{key}"
        );
    }
}

#[test]
fn dependencies_are_locked_and_looked_up_by_ci() {
    let ci = include_str!("../../.ci/run");
    for line in [
        "cargo deny check --hide-inclusion-graph bans licenses sources",
        "cargo deny check --disable-fetch advisories",
        "cargo test --locked",
    ] {
        assert!(ci.contains(line), "{line}");
    }
    let deny: toml::Table = include_str!("../../deny.toml").parse().unwrap();
    assert_eq!(deny["advisories"]["ignore"], toml::Value::Array(Vec::new()));
    for kind in ["unknown-git", "unknown-registry"] {
        assert_eq!(deny["sources"][kind].as_str(), Some("deny"), "{kind}");
    }
    let lock: toml::Table = include_str!("../../Cargo.lock").parse().unwrap();
    for package in lock["package"].as_array().unwrap() {
        let source = package.get("source").and_then(toml::Value::as_str);
        let is_fixed = source.is_some_and(|it| it.ends_with("rust-lang/crates.io-index"))
            && package.get("checksum").is_some();
        assert!(is_fixed || package["name"].as_str() == Some("ringbearer"), "{package:?}");
    }
}

from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from streams.topics import all_topics, check_topics, create_topics


async def test_creates_what_is_missing_and_is_safe_to_repeat(settings):
    before = await check_topics(settings)
    assert {report.state for report in before} == {"missing"}

    created = await create_topics(settings)
    assert [report.state for report in created] == ["created"] * len(all_topics(settings))
    again = await create_topics(settings)
    assert [report.state for report in again] == ["ok"] * len(all_topics(settings))
    assert all(report.is_right for report in await check_topics(settings))

    details = {report.name: report.details[0] for report in again}
    assert details[settings.topics.trips] == "2 partitions, 1 replica, cleanup compact"
    assert details[settings.topics.changelog] == "2 partitions, 1 replica, cleanup compact"
    assert details[settings.topics.events] == "2 partitions, 1 replica, cleanup delete"


async def test_names_what_differs_in_topics_that_are_there(kafka, settings):
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    try:
        await admin.create_topics(
            [
                NewTopic(settings.topics.telemetry, 3, 1, topic_configs={"max.message.bytes": "2000000"}),
                NewTopic(settings.topics.trips, 2, 1),
                NewTopic(settings.topics.late, 2, 1),
                NewTopic(settings.topics.changelog, 2, 1, topic_configs={"cleanup.policy": "compact"}),
            ]
        )
    finally:
        await admin.close()
    reports = {report.name: report for report in await create_topics(settings)}
    topics = settings.topics
    assert reports[topics.telemetry].details[0].startswith("it has 3 partitions, not 2: set TRIPS_PARTITIONS")
    (detail,) = reports[topics.trips].details
    assert detail.startswith("cleanup.policy is delete, not compact: kafka-configs.sh --alter --entity-type topics ")
    assert detail.endswith(f"--entity-name {topics.trips} --add-config cleanup.policy=compact")
    assert "max.message.bytes is 1048588, not 2065536" in reports[topics.late].details[0]
    assert reports[topics.dead_letters].state == "created", reports
    assert reports[topics.changelog].details[0].startswith("it has 2 partitions, but telemetry has 3")
    assert [report.name for report in await check_topics(settings) if not report.is_right] == [
        topics.telemetry,
        topics.late,
        topics.trips,
        topics.changelog,
    ]


async def test_a_new_changelog_has_as_many_partitions_as_the_telemetry_that_is_there(kafka, settings):
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(settings.topics.telemetry, 5, 1)])
    finally:
        await admin.close()
    reports = {report.name: report for report in await create_topics(settings)}
    assert reports[settings.topics.changelog].details == ("5 partitions, 1 replica, cleanup compact",)

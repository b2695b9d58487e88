from idlegrid.pipelines.bulk.progress import Meter


def test_nothing_done_has_no_rate_and_no_eta():
    meter = Meter(0.0)
    assert (meter.rate(5.0), meter.eta(100, 5.0)) == (0.0, None)


def test_the_rate_is_that_of_the_last_half_minute():
    meter = Meter(0.0)
    for second in range(1, 101):
        meter.add(10 if second <= 50 else 20, float(second))
    assert meter.rate(100.0) == 20.0 * 31 / 30
    assert meter.eta(620, 100.0) == 30.0


def test_where_little_comes_in_half_a_minute_it_is_that_of_the_whole_run():
    meter = Meter(0.0)
    meter.add(1, 90.0)
    meter.add(1, 180.0)
    assert meter.rate(185.0) == 2 / 185
    assert meter.rate(270.0) == 2 / 270


def test_early_on_it_is_that_of_the_whole_run():
    meter = Meter(10.0)
    meter.add(30, 12.0)
    assert meter.rate(13.0) == 10.0

# Error of the linear layers of every block, as reuse leaves it and at the chosen ranks: a row of panels for each kind of
# module, a column for each bundle. Reads error.tsv. Without the profiles the share of the delta that is left is shown.
if (!exists("ousac_common")) load "plots/common.gp"
file = tables."error.tsv"

rows = 0; bundles = 0; blocks = 0; with_profile = 0; low = 1e300; high = 0.0; zeros = 0
seen(v) = v > 0 ? (low = min2(low, v), high = max2(high, v)) : 0
stats file using (rows = rows + 1, bundles = max2(bundles, column("bundle") + 1), blocks = max2(blocks, column("block") + 1), \
                  add(strcol("kind"))) nooutput
stats file using (with_profile = with_profile + (column("reuse") >= 0)) nooutput
relative = rows > 0 && with_profile == rows
if (relative) {
    stats file using (seen(column("reuse"))) nooutput
    stats file using (seen(column("calibrated"))) nooutput
} else {
    stats file using (seen(column("share_left")), high = rows > 0 && low < 1e300 ? 1 : high) nooutput
}
kinds = words(words_seen)
zeros_anywhere = 0
stats file using (zeros_anywhere = zeros_anywhere + (column(relative ? "calibrated" : "share_left") == 0)) nooutput
before(x) = relative ? column("reuse") : column("share_left") >= 0 ? 1 : NaN
after(x) = relative ? column("calibrated") : column("share_left")
titled(kind) = kind eq "attn" ? "attention" : kind eq "mlp" ? "MLP" : kind

side = bundles > 1
across = side ? int(bundles) : kinds
down = side ? kinds : 1
height = high > 0 ? 60.0 + (side ? 350 : 330) * down : 300.0
eval start(side ? max2(860, 430 * bundles) : max2(860, 430 * kinds), height, high > 0 ? 24 * down : 20)
if (high <= 0) {
    set xlabel "block (index)"; set ylabel "relative error of the layers (no unit)"
    eval say_nothing
} else {
    floor_at = low / 3
    set logscale y
    set format y "%g"
    margin = high < 4 * low ? 2.2 : 1.5
    set yrange [(zeros_anywhere ? low / 5 : low / margin):high * margin]
    eval log_tics(low, high)
    set datafile missing NaN # lines go on over the rows of other kinds
    set xrange [-0.5:blocks - 0.5]
    set xtics 0, tic_step(blocks, 14)
    set xlabel "block (index)"
    left = across > 2 ? 0.08 : 0.12
    set multiplot layout down, across margins screen left, 0.98, (text ? 0.16 : 70 / height), (text ? 0.9 : 1 - 45 / height) \
        spacing screen (text ? 0.14 : left), (text ? 0.2 : 130 / height)
    do for [i = 0:across * down - 1] {
        b = side ? i % across : 0
        k = side ? i / across + 1 : i + 1
        kind = word(words_seen, k)
        if (i % across == 0) { set ylabel "".(relative ? "relative error of the layers (no unit)" : "share of the delta left (no unit)") } else { unset ylabel }
        label = ""; of_kind = 0; zeros = 0; positive = 0
        here(x) = column("bundle") == b && strcol("kind") eq kind
        stats file using (here(0) ? (label = strcol("label"), of_kind = of_kind + 1, zeros = zeros + (after(0) == 0), \
                                     positive = positive + (after(0) > 0)) : 0) nooutput
        set key at graph 1, graph 1.02 right bottom horizontal
        set label 1 titled(kind).(side ? ", ".label : "") at graph 0, graph 1.02 left offset (text ? 2 : 0), (text ? 0 : side ? 1.6 : 0.6)
        command = "plot file using 'block':(here(0) ? before(0) : NaN) with linespoints pt ".(text ? "'r'" : "6")." ps 0.8 lw 1.6 lc rgb vermillion ".\
            "title 'before: reuse'"
        if (positive > 0) { command = command.", file using 'block':(here(0) && after(0) > 0 ? after(0) : NaN) ".\
            "with linespoints pt ".(text ? "'c'" : "7")." ps 0.8 lw 1.6 lc rgb blue title 'after: calibrated'" }
        if (zeros > 0) { command = command.", file using 'block':(here(0) && after(0) == 0 ? floor_at : NaN) ".\
            "with points pt 10 ps 1 lc rgb blue title 'after: 0 (exact)'" }
        if (of_kind == 0) { eval say_nothing } else { eval command }
    }
    unset multiplot
}

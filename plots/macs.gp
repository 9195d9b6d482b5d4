# Where the MACs of a sample go: from the reference, down by what guidance and caching save, up by what calibration adds;
# and what the calibrated run is made of. Reads macs.tsv.
if (!exists("ousac_common")) load "plots/common.gp"
file = tables."macs.tsv"

rows = 0; least = 0.0; most = 100.0
array label[16]; array from[16]; array to[16]; array place[16]; array tints[16]
shift(group) = group eq "saving" ? 0 : 0.5
stats file using (rows < 16 ? (rows = rows + 1, label[rows] = strcol("part"), place[rows] = rows + shift(strcol("group")), from[rows] = 100 * column("from"), \
                  to[rows] = 100 * column("to"), least = min2(least, min2(from[rows], to[rows])), \
                  most = max2(most, max2(from[rows], to[rows]))) : 0) nooutput
eval start(860, rows > 0 ? 110 + 38 * rows : 300, rows > 0 ? 2 * rows + 9 : 20)
set xlabel "MACs of one sample (% of the reference run)"
if (rows == 0) {
    eval say_nothing
} else {
    set lmargin (text ? 46 : 42)
    set rmargin 4
    set xrange [least:most * 1.12]
    set yrange [place[rows] + 0.6:0.4]
    set grid xtics noytics lc rgb "#808080" lw 0.4 dt (2, 4)
    command = "set ytics ("
    do for [i = 1:rows] { command = command.sprintf("%s'%s' %g", i > 1 ? ", " : "", label[i], place[i]) }
    eval command.")"
    do for [i = 1:rows] {
        tint = label[i] eq "guidance saving" || label[i] eq "caching saving" ? green : \
               label[i] eq "calibration overhead" || label[i] eq "corrections at the chosen ranks" ? vermillion : \
               label[i] eq "rank-independent floor of cached evaluations" ? orange : \
               label[i] eq "full evaluations" ? sky : label[i] eq "reference" ? grey : blue
        saving = tint == green
        sign = abs(to[i] - from[i]) < 0.005 ? "" : saving ? "-" : label[i] eq "calibration overhead" ? "+" : ""
        tints[i] = tint
        if (text) {
            set label i sprintf("%s%.2f %%", sign, to[i] - from[i]) at max2(from[i], to[i]), place[i] left offset 1, 0
        } else {
            set label i sprintf("%s%.2f %%", sign, to[i] - from[i]) at max2(from[i], to[i]), place[i] left offset 0.6, 0
        }
    }
    unset key
    if (text) {
        set samples 2 * columns
        plot for [i = 1:rows] '+' using (from[i] + (to[i] - from[i]) * ($1 - least) / (1.12 * most - least)):(place[i]) \
             with points pt "#" notitle
    } else {
        plot for [i = 1:rows] '+' every ::0::0 using ((from[i] + to[i]) / 2):(place[i]):(abs(to[i] - from[i]) / 2):(0.36) \
             with boxxyerror lc rgb tints[i] notitle
    }
}

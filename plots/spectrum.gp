# Error spectrum of one site: energy of each direction, and what is left after that many, with the kept rank marked.
# Reads spectrum.tsv.
if (!exists("ousac_common")) load "plots/common.gp"
file = tables."spectrum.tsv"

rows = 0; positive = 0; low = 1e300; dense = 0; kept = -1; last = 1; site = ""
stats file using (rows = rows + 1, site = strcol("site"), dense = column("dense_rank"), last = max2(last, column("rank")), \
                  kept = column("kept") == 1 ? column("rank") : kept) nooutput
stats file using (column("direction") > 0 ? (positive = positive + 1, low = min2(low, column("direction"))) : 0) nooutput
eval start(860, 400, 26)
set xlabel "rank (directions)"
set ylabel "share of the delta's energy (no unit)"
if (strlen(site)) { set title "site ".site }
if (positive == 0) {
    eval say_nothing
} else {
    set logscale y
    set format y "%g"
    set yrange [max2(low, 1e-12) / 2:1.5]
    set xrange [0:last]
    set arrow 1 from first dense, graph 0 to first dense, graph 1 nohead lc rgb grey dt (6, 4)
    if (dense > 0.6 * last) {
        set label 1 sprintf("exact product is cheaper from %d", dense) at first dense, graph 0.95 right offset -0.6, 0 tc rgb grey
    } else {
        set label 1 sprintf("exact product is cheaper from %d", dense) at first dense, graph 0.95 left offset (text ? 2 : 0.6), 0 tc rgb grey
    }
    if (kept >= 0) {
        set arrow 2 from first kept, graph 0 to first kept, graph 1 nohead lc rgb vermillion lw 1.6
        set label 2 sprintf("kept: %d", kept) at first kept, graph (kept > 0.3 * dense || dense < 0.3 * last ? 0.86 : 0.95) \
            left offset (text ? 2 : 0.6), 0 tc rgb vermillion
    }
    if (text) {
        plot file using "rank":(column("direction") > 0 ? column("direction") : NaN) with points pt "." title ". of each direction", \
             file using "rank":(column("energy_left") > 0 ? column("energy_left") : NaN) with points pt "o" title "o left after the rank"
    } else {
        plot file using "rank":(column("direction") > 0 ? column("direction") : NaN) with points pt 7 ps 0.4 lc rgb orange \
                 title "of each direction", \
             file using "rank":(column("energy_left") > 0 ? column("energy_left") : NaN) with lines lw 2 lc rgb blue \
                 title "left after the rank"
    }
}
